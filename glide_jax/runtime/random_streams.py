"""The random keys of a training step: they are derived, not stored.

key = fold_in over (seed, stream, step, global example index): the example's position
in the whole run's stream, not its row in a batch. So a draw does not depend on the
mesh, on the number of processes or on earlier draws, and a resumed run draws the same
numbers as an uninterrupted one.
"""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Int

from glide_jax import array_types

# Numbers are part of a run's identity: never reuse one, never renumber.
STREAMS = {
    "init": 0,
    "caption_drop": 1,
    "timestep": 2,
    "noise": 3,
    "dropout": 4,
    "validation": 5,
}

Step = Int[array_types.Array, ""] | int
# A traced argument of the step, so that runs with different seeds share a compilation.
Seed = Int[array_types.Array, ""] | int


def stream_key(seed: Seed, stream: str) -> array_types.PRNGKey:
    """The root key of one stream of a run."""
    return jax.random.fold_in(jax.random.key(seed), STREAMS[stream])


def example_keys(
    seed: Seed, stream: str, step: Step, example_index: array_types.Timesteps
) -> array_types.PRNGKeys:
    """One key per example: (B,) from its global example index, and the step."""
    step_key = jax.random.fold_in(stream_key(seed, stream), step)
    return jax.vmap(lambda i: jax.random.fold_in(step_key, i))(example_index)


# Separate streams, so that e.g. masks never correlate with the order of records.
(
    ORDER,
    MIXTURE,
    REPLACEMENT,
    FLIP,
    CORRUPTION,
    MASK,
    CAPTION,
) = range(7)


def generator(seed: int, stream: int, *keys: int) -> np.random.Generator:
    """A fresh generator keyed by (seed, stream, keys), all of them non-negative."""
    return np.random.default_rng((seed, stream, *keys))
