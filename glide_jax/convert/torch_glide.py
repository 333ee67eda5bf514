"""A released PyTorch state dict as our parameter tree, and back.

A pure map, both ways; nothing here reads PyTorch: tensors come and go as a dict from
PyTorch name to array.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from glide_jax import array_types
from glide_jax.config.defaults import ModelConfig
from glide_jax.convert import names
from glide_jax.errors import UserError
from glide_jax.models import build

DTYPES = ("float32", "float16", "bfloat16")
_LISTED = 3  # names an error shows before it counts the rest


def from_torch(
    kind: str, config: ModelConfig, tensors: Mapping[str, np.ndarray]
) -> array_types.Params:
    """Our parameter tree, as numpy arrays of the types given, of a released state dict.

    Args:
      kind: one of KINDS.
      config: sizes of the model the tensors belong to; for the CLIP kinds the tree is
        one tower's, params["image"] or params["text"].
      tensors: every tensor of the file by its PyTorch name.

    Raises:
      UserError: for missing, surplus or misshapen tensors, and those of a type that
        cannot be kept, with their names.
    """
    expected = torch_shapes(kind, config)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    stacks: dict[tuple[str, ...], list[str]] = {}
    for entry in names.entries(kind, config):
        stacks.setdefault(entry.path, []).append(entry.name)
    mistyped = _mistyped(tensors) + _unlike_their_fellows(tensors, stacks.values())
    _check(f"the tensors are not those of kind {kind!r}", expected, found, mistyped)
    params: dict[str, Any] = {}
    rows: dict[tuple[str, ...], list[np.ndarray]] = {}
    for entry in names.entries(kind, config):
        ours = entry.axes.to_ours(tensors[entry.name])
        if entry.layer is None:
            _put(params, entry.path, np.ascontiguousarray(ours))
        else:
            rows.setdefault(entry.path, []).append(ours)
    for path, stack in rows.items():
        _put(params, path, np.stack(stack))
    return params


def to_torch(
    kind: str, config: ModelConfig, params: array_types.Params
) -> dict[str, array_types.Array]:
    """The released state dict of our parameter tree; inverse of `from_torch`.

    Types stay; the arrays may be views. Works on an abstract tree under
    `jax.eval_shape` as well.

    Raises:
      UserError: for missing, surplus or misshapen parameters, with their paths.
    """
    expected = shapes_by_path(_tree(kind, config))
    found = shapes_by_path(params)
    _check(f"the parameters are not those of kind {kind!r}", expected, found, [])
    tensors = {}
    for entry in names.entries(kind, config):
        leaf = _get(params, entry.path)
        leaf = leaf if entry.layer is None else leaf[entry.layer]
        tensors[entry.name] = entry.axes.to_torch(leaf)
    return tensors


def torch_shapes(kind: str, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """PyTorch name -> shape of every tensor of a release of these sizes."""
    params = _tree(kind, config)
    expected = {}
    for entry in names.entries(kind, config):
        shape = _get(params, entry.path).shape
        shape = shape if entry.layer is None else shape[1:]
        # A broadcast zero takes the map's shape changes without taking memory.
        expected[entry.name] = entry.axes.to_torch(np.broadcast_to(0.0, shape)).shape
    return expected


def shapes_by_path(tree: array_types.Params) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf by its path joined with "/"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@functools.cache  # seconds at the paper's size; nobody here changes it
def _tree(kind: str, config: ModelConfig) -> array_types.Params:
    """Abstract parameters of the part of the model that a file of the kind holds."""
    names.check_kind(kind, config)
    params = build.abstract_params(config)
    return params[kind.removeprefix("clip-")] if kind.startswith("clip-") else params


def _mistyped(tensors: Mapping[str, np.ndarray]) -> list[str]:
    return [
        f"{name} {tensor.dtype.name}"
        for name, tensor in tensors.items()
        if tensor.dtype.name not in DTYPES
    ]


def _unlike_their_fellows(
    tensors: Mapping[str, np.ndarray], stacks: Iterable[list[str]]
) -> list[str]:
    """Layers lie in one array here, so a stack has one type, its first one's."""
    return [
        f"{name} {tensors[name].dtype.name} beside {tensors[first].dtype.name} layers"
        for first, *others in stacks
        for name in others
        if {first, name} <= tensors.keys()
        and tensors[name].dtype != tensors[first].dtype
    ]


def _check(
    what: str,
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    mistyped: list[str],
) -> None:
    """Raises one UserError with the number of wrong names and the first of them."""
    wrong = {
        "missing": [name for name in expected if name not in found],
        # A name out of a file may hold anything, also line ends.
        "surplus": [
            name if name.isprintable() else repr(name)
            for name in found
            if name not in expected
        ],
        "misshapen": [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in expected.items()
            if found.get(name, shape) != shape
        ],
        "mistyped": mistyped,
    }
    problems = []
    for how, which in wrong.items():
        if which:
            more = f" and {len(which) - _LISTED} more" if len(which) > _LISTED else ""
            problems.append(f"{len(which)} {how}: {', '.join(which[:_LISTED])}{more}")
    if problems:
        raise UserError(
            f"{what} at this configuration; {'; '.join(problems)}; check the kind; "
            "for a model of other sizes than the released ones give --config=BUNDLE"
        )


def _get(tree, path):
    for name in path:
        tree = tree[name]
    return tree


def _put(tree, path, leaf):
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf
