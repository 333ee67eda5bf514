"""Shardings on the mesh: state by rules, batches over data and fsdp.

The rules depend on paths and shapes only, so a parameter, its averages and its moments
of the same shape have the same sharding. Adafactor's factored moments have other
shapes; no rule applies to them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from glide_jax.errors import UserError
from glide_jax.parallel import device_mesh, sharding_rules
from glide_jax.runtime import wording

logger = logging.getLogger(__name__)

HOST = "pinned_host"  # JAX's kind of memory that is the host's
# Sizes are compared as float32, so that moments of a narrower dtype are sharded like
# their parameter.
_BYTES = 4


def shard_tree(
    abstract_tree: Any,
    mesh: Mesh | AbstractMesh,
    *,
    rules: Sequence[sharding_rules.Rule] = (),
    params: Any = None,
    min_shard_mb: float | int,
) -> Any:
    """Returns a NamedSharding for every leaf of a tree.

    The first of `rules` that matches a tensor gives its axes. If that rule does not
    name fsdp, or none matches, fsdp shards the largest remaining dimension that divides
    evenly. Large tensors that no dimension allows to shard (3-channel convolutions, odd
    vocabularies) are logged.

    Args:
      abstract_tree: of arrays or ShapeDtypeStructs.
      mesh: of the run.
      rules: in order of precedence. A rule with axes applies to a leaf only if the
        leaf has the shape of its parameter.
      params: the parameters of the tree; the path of a leaf ends with that of its
        parameter. None: each leaf is a parameter.
      min_shard_mb: size in MiB, as float32, from which fsdp shards a tensor.

    Raises:
      UserError: a rule shards a dimension that does not divide evenly.
    """
    unsharded: list[str] = []
    shapes = None if params is None else _shapes(params)

    def place(path: tuple, leaf: Any) -> NamedSharding:
        name = _name(path)
        axes = _axes_by_rule(name, leaf.shape, mesh, rules, shapes)
        if axes is None:
            return replicated(mesh)
        size_mb = math.prod(leaf.shape) * _BYTES / 2**20
        parts = mesh.shape["fsdp"]
        if "fsdp" not in axes and parts > 1 and leaf.shape and size_mb >= min_shard_mb:
            free = _largest_divisible_axis(leaf.shape, axes, parts)
            if free is not None:
                axes[free] = "fsdp"
            elif not any(axes):
                unsharded.append(f"{name} {tuple(leaf.shape)} {size_mb:.1f} MiB")
        while axes and axes[-1] is None:  # equal shardings get equal specs
            axes.pop()
        return NamedSharding(mesh, P(*axes))

    shardings = jax.tree_util.tree_map_with_path(place, abstract_tree)
    if unsharded:
        logger.info(
            "mesh.fsdp=%d divides no dimension of these tensors; they are replicated: "
            "%s",
            mesh.shape["fsdp"],
            "; ".join(unsharded),
        )
    return shardings


def _axes_by_rule(
    name: str,
    shape: tuple[int, ...],
    mesh: Mesh | AbstractMesh,
    rules: Sequence[sharding_rules.Rule],
    shapes: Any,
) -> list[str | None] | None:
    """Returns the axes that the first matching rule gives; None: it is replicated."""
    axes: list[str | None] = [None] * len(shape)
    rule = next((rule for rule in rules if rule.matches(name, len(shape))), None)
    if rule is not None:
        if rule.axes is None:
            return None
        parameter = name if shapes is None else _parameter_of(name, shapes)
        if shapes is None or shapes.get(parameter) == shape:
            axes = list(rule.axes)
            _check_divides(parameter, shape, axes, mesh)
    return [axis if axis and mesh.shape[axis] > 1 else None for axis in axes]


def check_rules(params: Any, rules: Sequence[sharding_rules.Rule]) -> None:
    """Raises UserError for a rule that matches no parameter."""
    shapes = _shapes(params)
    for rule in rules:
        if not any(rule.matches(name, len(shape)) for name, shape in shapes.items()):
            count = 0 if rule.axes is None else len(rule.axes)
            dims = f" of {wording.counted(count, 'dimension')}" if count else ""
            raise UserError(
                f"mesh.rules: {rule.pattern!r} matches no parameter{dims}; "
                "`glide train --dry_run` lists their paths and shapes"
            )


def on_devices(where: Any) -> Any:
    """Returns the same shardings, all in device memory."""
    return jax.tree.map(
        lambda place: (
            place.with_memory_kind("device") if place.memory_kind == HOST else place
        ),
        where,
    )


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Returns the sharding of a batch: its first axis over data and fsdp."""
    return NamedSharding(mesh, P(device_mesh.BATCH_AXES))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Returns the sharding that replicates an array on every device."""
    return NamedSharding(mesh, P())


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays from the rows of each process, in process order."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(rows))
        for name, rows in batch.items()
    }


def replicate(value: np.ndarray | np.generic, mesh: Mesh) -> jax.Array:
    """Replicates a value, equal in every process, on every device."""
    return jax.make_array_from_process_local_data(replicated(mesh), np.asarray(value))


def make_constrain(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """Returns a function that constrains an activation's first axis to the batch axes.

    Without it the compiler may gather activations instead of parameters. A batch
    that does not divide (one image sampled on eight devices) is not constrained.
    """
    if mesh.size == 1:
        return lambda x: x
    shards, sharding = device_mesh.num_batch_shards(mesh), batch_sharding(mesh)

    def constrain(x: jax.Array) -> jax.Array:
        if x.ndim == 0 or x.shape[0] % shards:
            return x
        return jax.lax.with_sharding_constraint(x, sharding)

    return constrain


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each parameter by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {_name(path): leaf.shape for path, leaf in leaves}


def _parameter_of(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Returns the longest end of a path that is a parameter's; "" if none is."""
    parts = name.split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in shapes), "")


def _check_divides(
    name: str,
    shape: tuple[int, ...],
    axes: list[str | None],
    mesh: Mesh | AbstractMesh,
) -> None:
    for size, axis in zip(shape, axes, strict=True):
        if axis is not None and size % mesh.shape[axis]:
            raise UserError(
                f"{name} {tuple(shape)}: mesh.{axis}={mesh.shape[axis]} does not "
                f"divide its dimension of {size}; use a size of that axis that "
                f"divides {size}, or the rule '{name}=whole' in mesh.rules"
            )


def _largest_divisible_axis(
    shape: tuple[int, ...], axes: list[str | None], parts: int
) -> int | None:
    """Returns the last of the largest free dimensions that `parts` divides, or None."""
    free = [
        index
        for index, size in enumerate(shape)
        if axes[index] is None and size and size % parts == 0
    ]
    return max(free, key=lambda index: (shape[index], index), default=None)
