"""Converts a released PyTorch state dict to a parameter tree, and back.

Both directions are pure functions of dicts from PyTorch name to array; PyTorch is not
used.
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
_LISTED = 3  # names in an error; further ones are counted


def from_torch(
    kind: str, config: ModelConfig, tensors: Mapping[str, np.ndarray]
) -> array_types.Params:
    """Returns the parameter tree of a released state dict, as numpy arrays.

    Args:
      kind: one of names.KINDS.
      config: sizes of the model.
      tensors: every tensor of the file by its PyTorch name; dtypes are preserved.

    Returns:
      The parameters; for the CLIP kinds those of one tower, params["image"] or
      params["text"].

    Raises:
      UserError: tensors that are missing, unknown, of another shape or of a dtype
        that is not supported.
    """
    expected = torch_shapes(kind, config)
    actual = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    stacks: dict[tuple[str, ...], list[str]] = {}
    for entry in names.entries(kind, config):
        stacks.setdefault(entry.path, []).append(entry.name)
    mistyped = _unsupported_dtypes(tensors) + _mixed_dtypes(tensors, stacks.values())
    _check(f"the tensors are not those of kind {kind!r}", expected, actual, mistyped)
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
    """Returns the released state dict of a parameter tree; inverse of `from_torch`.

    Dtypes are preserved; the arrays may be views. Abstract trees are supported under
    `jax.eval_shape`.

    Raises:
      UserError: parameters that are missing, unknown or of another shape.
    """
    expected = shapes_by_path(_tree(kind, config))
    actual = shapes_by_path(params)
    _check(f"the parameters are not those of kind {kind!r}", expected, actual, [])
    tensors = {}
    for entry in names.entries(kind, config):
        leaf = _get(params, entry.path)
        leaf = leaf if entry.layer is None else leaf[entry.layer]
        tensors[entry.name] = entry.axes.to_torch(leaf)
    return tensors


def torch_shapes(kind: str, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor of a released model, by its PyTorch name."""
    params = _tree(kind, config)
    expected = {}
    for entry in names.entries(kind, config):
        shape = _get(params, entry.path).shape
        shape = shape if entry.layer is None else shape[1:]
        # A broadcast zero changes its shape like the tensor, but needs no memory.
        expected[entry.name] = entry.axes.to_torch(np.broadcast_to(0.0, shape)).shape
    return expected


def shapes_by_path(tree: array_types.Params) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every leaf by its path, joined with "/"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@functools.cache  # tracing takes seconds at the paper's size
def _tree(kind: str, config: ModelConfig) -> array_types.Params:
    """Returns abstract parameters of the part of the model in files of a kind."""
    names.check_kind(kind, config)
    params = build.abstract_params(config)
    return params[kind.removeprefix("clip-")] if kind.startswith("clip-") else params


def _unsupported_dtypes(tensors: Mapping[str, np.ndarray]) -> list[str]:
    return [
        f"{name} {tensor.dtype.name}"
        for name, tensor in tensors.items()
        if tensor.dtype.name not in DTYPES
    ]


def _mixed_dtypes(
    tensors: Mapping[str, np.ndarray], stacks: Iterable[list[str]]
) -> list[str]:
    """Lists tensors whose dtype differs from the first layer of their stack."""
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
    actual: Mapping[str, tuple[int, ...]],
    mistyped: list[str],
) -> None:
    """Raises a UserError with the number of wrong tensors and the first of them."""
    wrong = {
        "missing": [name for name in expected if name not in actual],
        # Names from a file may contain any characters, including line ends.
        "unknown": [
            name if name.isprintable() else repr(name)
            for name in actual
            if name not in expected
        ],
        "of another shape": [
            f"{name} {actual[name]} instead of {shape}"
            for name, shape in expected.items()
            if actual.get(name, shape) != shape
        ],
        "of another dtype": mistyped,
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


def _get(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _put(tree: dict[str, Any], path: tuple[str, ...], leaf: np.ndarray) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf
