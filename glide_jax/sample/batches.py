"""Runs any number of images through one compiled program, each with its own noise."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt32

from glide_jax import array_types
from glide_jax.parallel import device_mesh, sharding
from glide_jax.sample import image_io, segments, stage_inputs
from glide_jax.sample.stage_inputs import StageInputs

# One a picture: keys are made of 32-bit words.
Words = UInt32[array_types.Array, "b"]
# Called with 0 when a stage begins, then with the images' worth of work that is done
# since the last call, also a part of one: the numbers of a stage add up to its images.
Progress = Callable[[float | int], None]
# (inputs, what is told of shares of the work) -> x_start (B, H, W, 3)
Draw = Callable[[StageInputs, segments.OnShare | None], jax.Array]

# Folded into an image's key, so that the two stages draw different noise.
BASE_STREAM, UPSAMPLER_STREAM = 0, 1
NUM_STREAMS = 2


def image_keys(
    seed: int, indices: np.ndarray, stream: int | np.ndarray
) -> array_types.PRNGKeys:
    """Keys of images by index: fold_in(fold_in(key(seed), index), stream)."""
    indices = np.asarray(indices).astype(np.uint32)
    seeds = np.full(len(indices), seed, np.uint32)
    return keys_of(jnp.asarray(seeds), jnp.asarray(indices), stream)


def keys_of(
    seeds: Words, indices: Words, stream: int | np.ndarray
) -> array_types.PRNGKeys:
    """The key of each pair of seed and index, in one stream or each in its own.

    May be traced.
    """

    def fold(seed: jax.Array, index: jax.Array, stream: jax.Array) -> jax.Array:
        root = jax.random.key(seed)
        return jax.random.fold_in(jax.random.fold_in(root, index), stream)

    streams = jnp.broadcast_to(jnp.uint32(stream), indices.shape)
    return jax.vmap(fold)(seeds, indices, streams)


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
