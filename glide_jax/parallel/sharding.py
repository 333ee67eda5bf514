"""Where arrays lie on the mesh: state by one rule, batches over data and fsdp.

The rule for state looks at shapes only, so parameters, their averages and the
optimizer's moments of one parameter always lie alike.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from glide_jax.parallel import mesh as mesh_lib

logger = logging.getLogger(__name__)


def shard_tree(
    abstract_tree: Any, mesh: Mesh | AbstractMesh, *, min_shard_mb: float | int
) -> Any:
    """A NamedSharding for every leaf of a tree of arrays or ShapeDtypeStructs.

    A tensor of at least `min_shard_mb` MiB is cut over fsdp along its largest
    dimension that divides evenly; all else lies whole on every device. Large
    tensors that no dimension lets cut (3-channel convolutions, odd vocabularies)
    are logged.
    """
    parts = mesh.shape["fsdp"]
    uncut: list[str] = []

    def rule(path: tuple, leaf: Any) -> NamedSharding:
        size_mb = math.prod(leaf.shape) * leaf.dtype.itemsize / 2**20
        if parts == 1 or not leaf.shape or size_mb < min_shard_mb:
            return replicated(mesh)
        axis = _largest_divisible_axis(leaf.shape, parts)
        if axis is None:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            uncut.append(f"{name} {tuple(leaf.shape)} {size_mb:.1f} MiB")
            return replicated(mesh)
        return NamedSharding(mesh, P(*[None] * axis, "fsdp"))

    shardings = jax.tree_util.tree_map_with_path(rule, abstract_tree)
    if uncut:
        logger.info(
            "no dimension divides by mesh.fsdp=%d, so whole on every device: %s",
            parts,
            "; ".join(uncut),
        )
    return shardings


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """First axis over data and fsdp, the rest whole."""
    return NamedSharding(mesh, P(mesh_lib.BATCH_AXES))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, P())


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays from the rows that this process holds, in process order."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(rows))
        for name, rows in batch.items()
    }


def make_constrain(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """A function that pins an activation's first axis to the batch axes.

    Without it the compiler may gather activations instead of parameters. A batch
    that does not divide (one image sampled on eight devices) is left to it.
    """
    if mesh.size == 1:
        return lambda x: x
    shards, sharding = mesh_lib.num_batch_shards(mesh), batch_sharding(mesh)

    def constrain(x: jax.Array) -> jax.Array:
        if x.ndim == 0 or x.shape[0] % shards:
            return x
        return jax.lax.with_sharding_constraint(x, sharding)

    return constrain


def _largest_divisible_axis(shape: tuple[int, ...], parts: int) -> int | None:
    """The last of the largest axes that `parts` divides, or None."""
    axes = [axis for axis, size in enumerate(shape) if size and size % parts == 0]
    return max(axes, key=lambda axis: (shape[axis], axis), default=None)
