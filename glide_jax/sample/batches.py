"""Runs any number of images through one compiled program, each with its own noise."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from glide_jax.parallel import device_mesh, sharding
from glide_jax.sample import image_io, segments, stage_inputs
from glide_jax.sample.stage_inputs import StageInputs

# Called with 0 when a stage begins, then with the images' worth of work that is done
# since the last call, also a part of one: the numbers of a stage add up to its images.
Progress = Callable[[float | int], None]
# (inputs, callback for shares of the work) -> x_start (B, H, W, 3)
Draw = Callable[[StageInputs, segments.OnShare | None], jax.Array]


def draw_in_batches(
    draw: Draw,
    inputs: StageInputs,
    batch_size: int,
    progress: Progress | None = None,
    mesh: Mesh | None = None,
) -> image_io.PixelBatch:
    """All pictures as uint8, at most `batch_size` at once.

    A batch is padded to a power of two (and to a multiple of the mesh's batch axes), so
    that few programs serve any number of pictures.
    """
    count = len(inputs.keys)
    if progress is not None:
        progress(0)
    pictures, start = [], 0
    while start < count:
        wanted = min(batch_size, count - start)
        rows = np.arange(start, start + padded_size(wanted, batch_size, mesh))
        batch = _place(_take(inputs, np.minimum(rows, count - 1)), mesh)
        on_share = _scaled(progress, wanted)
        pictures.append(image_io.to_pixels(draw(batch, on_share))[:wanted])
        start += wanted
    return np.concatenate(pictures)


def _scaled(progress: Progress | None, count: int) -> segments.OnShare | None:
    """Tells of shares of a batch as of images."""
    return None if progress is None else lambda share: progress(share * count)


def padded_size(count: int, batch_size: int, mesh: Mesh | None) -> int:
    """The next power of two, at most `batch_size`; divisible over the mesh."""
    size = min(batch_size, 1 << (count - 1).bit_length())
    shards = 1 if mesh is None else device_mesh.num_batch_shards(mesh)
    return -(-size // shards) * shards


def _take(inputs: StageInputs, rows: np.ndarray) -> StageInputs:
    """Rows of every array that has one for each image."""
    own = {name: getattr(inputs, name) for name in _per_image(inputs)}
    return inputs._replace(**jax.tree.map(lambda leaf: leaf[rows], own))


def _place(inputs: StageInputs, mesh: Mesh | None) -> StageInputs:
    """Each image's arrays spread over the mesh, the rest on every device."""
    if mesh is None:
        return inputs
    own = {name: getattr(inputs, name) for name in _per_image(inputs)}
    own = jax.device_put(own, sharding.batch_sharding(mesh))
    shared = {name: getattr(inputs, name) for name in stage_inputs.SHARED}
    shared = jax.device_put(shared, sharding.replicated(mesh))
    return inputs._replace(**own, **shared)


def spread(inputs: StageInputs, mesh: Mesh) -> StageInputs:
    """Inside a program: each image's arrays over the mesh, of all processes."""
    own = {name: getattr(inputs, name) for name in _per_image(inputs)}
    where = sharding.batch_sharding(mesh)
    return inputs._replace(**jax.lax.with_sharding_constraint(own, where))


def _per_image(inputs: StageInputs) -> list[str]:
    return [name for name in inputs._fields if name not in stage_inputs.SHARED]
