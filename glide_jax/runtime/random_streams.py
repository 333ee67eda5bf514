"""The named random streams: every draw is derived from its indices, none is stored.

Training:   key = fold_in over (seed, stream, step, global example index)
Sampling:   key = fold_in over (seed, image index, stage), then the timestep or one of
            INITIAL_NOISE and KNOWN_NOISE
Data:       NumPy generator of (seed, stream, further keys)

The global example index is the example's position in the whole run's stream, not its
row in a batch. So a draw depends neither on the mesh, nor on the number of processes,
nor on earlier draws; a resumed run draws the same numbers as an uninterrupted one, and
an image has the same noise in any batch.

The numbers of streams are part of a result's identity: never reuse or renumber one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt32

from glide_jax import array_types

# Streams of a training step.
STREAMS = {
    "init": 0,
    "caption_drop": 1,
    "timestep": 2,
    "noise": 3,
    "dropout": 4,
    "validation": 5,
    "guidance_scale": 6,
    "earlier_timestep": 7,
    "posterior_noise": 8,
}
# Streams of the data. They are separate so that, for example, masks never correlate
# with the order of records.
(
    ORDER,
    MIXTURE,
    REPLACEMENT,
    FLIP,
    CORRUPTION,
    MASK,
    CAPTION,
) = range(7)
# The stages of a cascade, folded into an image's key.
BASE_STAGE, UPSAMPLER_STAGE = 0, 1
NUM_STAGES = 2
# Folded into the key of an image's stage. Steps fold in 0..num_timesteps-1.
INITIAL_NOISE = 2**31 - 1
KNOWN_NOISE = 2**31 - 2  # the noise on the known region of an inpainted image
# Folded into the key of an evaluated draw, which itself gives the timestep.
EVALUATION_NOISE = 1

Step = Int[array_types.Array, ""] | int
# A traced argument of the step, so that runs with different seeds share a compilation.
Seed = Int[array_types.Array, ""] | int
# Keys are made of 32-bit words.
Words = UInt32[array_types.Array, "b"]


def stream_key(seed: Seed, stream: str) -> array_types.PRNGKey:
    """The root key of one of STREAMS."""
    return jax.random.fold_in(jax.random.key(seed), STREAMS[stream])


def example_keys(
    seed: Seed, stream: str, step: Step, example_index: array_types.Timesteps
) -> array_types.PRNGKeys:
    """One key per example of a training step.

    Args:
      seed: the run's.
      stream: one of STREAMS.
      step: batches consumed before this one.
      example_index: global example indices, int32 (B,).
    """
    step_key = jax.random.fold_in(stream_key(seed, stream), step)
    return jax.vmap(lambda i: jax.random.fold_in(step_key, i))(example_index)


def validation_keys(
    seed: Seed, stream: str, example_index: array_types.Timesteps
) -> array_types.PRNGKeys:
    """One key per example of a validation batch, the same at every step.

    Args:
      seed: the run's.
      stream: one of STREAMS, so that two draws of an objective are independent.
      example_index: indices of validation examples, int32 (B,).
    """
    keys = example_keys(seed, "validation", 0, example_index)
    if stream == "noise":
        return keys  # as it always was: other keys would change validation losses
    return jax.vmap(lambda key: jax.random.fold_in(key, STREAMS[stream]))(keys)


def image_keys(
    seed: int | np.ndarray, indices: np.ndarray, stage: int | np.ndarray
) -> array_types.PRNGKeys:
    """Keys of images by index, (B,): fold_in(fold_in(key(seed), index), stage).

    The images have one seed, or each its own.
    """
    indices = np.asarray(indices).astype(np.uint32)
    seeds = np.broadcast_to(np.asarray(seed).astype(np.uint32), indices.shape)
    return keys_of(jnp.asarray(seeds), jnp.asarray(indices), stage)


def keys_of(
    seeds: Words, indices: Words, stage: int | array_types.Array
) -> array_types.PRNGKeys:
    """The key of each pair of seed and index, (B,), in one stage or each in its own.

    May be traced.
    """

    def fold(seed: jax.Array, index: jax.Array, stage: jax.Array) -> jax.Array:
        root = jax.random.key(seed)
        return jax.random.fold_in(jax.random.fold_in(root, index), stage)

    stages = jnp.broadcast_to(jnp.uint32(stage), indices.shape)
    return jax.vmap(fold)(jnp.asarray(seeds), jnp.asarray(indices), stages)


def fold_each(keys: array_types.PRNGKeys, number: int) -> array_types.PRNGKeys:
    """Each of the keys (B,) with the same number folded in."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def generator(seed: int, stream: int, *keys: int) -> np.random.Generator:
    """A new generator keyed by (seed, stream, keys), all of them non-negative."""
    return np.random.default_rng((seed, stream, *keys))
