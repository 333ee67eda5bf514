"""Any number of images through one compiled program, each with its own noise."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt32

from glide_jax import shapes
from glide_jax.sample import images as images_lib
from glide_jax.sample import stage

# One a picture: keys are made of 32-bit words.
Words = UInt32[shapes.Array, "b"]
# Called with 0 when a stage begins, then with the number of images it has finished.
Progress = Callable[[int], None]

# Folded into an image's key, so that the two stages draw different noise.
BASE_STREAM, UPSAMPLER_STREAM = 0, 1


def image_keys(seed: int, first_index: int, count: int, stream: int) -> shapes.PRNGKeys:
    """Keys of images first_index, ...: fold_in(fold_in(key(seed), index), stream)."""
    indices = (np.arange(count) + first_index).astype(np.uint32)
    seeds = np.full(count, seed, np.uint32)
    return keys_of(jnp.asarray(seeds), jnp.asarray(indices), stream)


def keys_of(seeds: Words, indices: Words, stream: int) -> shapes.PRNGKeys:
    """The key of each pair of seed and index; may be traced."""

    def fold(seed: jax.Array, index: jax.Array) -> jax.Array:
        root = jax.random.key(seed)
        return jax.random.fold_in(jax.random.fold_in(root, index), stream)

    return jax.vmap(fold)(seeds, indices)


def draw_in_batches(
    draw: Callable[[stage.StageInputs], jax.Array],
    inputs: stage.StageInputs,
    batch_size: int,
    progress: Progress | None,
) -> images_lib.PixelBatch:
    """All pictures as uint8; the last batch is padded, so that one program serves."""
    count = len(inputs.keys)
    size = min(batch_size, count)
    if progress is not None:
        progress(0)
    pictures = []
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        drawn = images_lib.to_pixels(draw(_take(inputs, rows)))
        pictures.append(drawn[: count - start])
        if progress is not None:
            progress(len(pictures[-1]))
    return np.concatenate(pictures)


def _take(inputs: stage.StageInputs, rows: np.ndarray) -> stage.StageInputs:
    """Rows of every batched array; scales stay."""
    return jax.tree.map(lambda leaf: leaf if np.ndim(leaf) == 0 else leaf[rows], inputs)
