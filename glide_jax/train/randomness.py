"""The random keys of a training step: they are derived, not stored.

key = fold_in over (seed, stream, step, global example index): the example's position
in the whole run's stream, not its row in a batch. So a draw does not depend on the
mesh, on the number of processes or on earlier draws, and a resumed run draws the same
numbers as an uninterrupted one.
"""

from __future__ import annotations

import jax
from jaxtyping import Int

from glide_jax import shapes

# Numbers are part of a run's identity: never reuse one, never renumber.
STREAMS = {
    "init": 0,
    "caption_drop": 1,
    "timestep": 2,
    "noise": 3,
    "dropout": 4,
    "validation": 5,
}

Step = Int[shapes.Array, ""] | int
# A traced argument of the step, so that runs with different seeds share a compilation.
Seed = Int[shapes.Array, ""] | int


def stream_key(seed: Seed, stream: str) -> shapes.PRNGKey:
    """The root key of one stream of a run."""
    return jax.random.fold_in(jax.random.key(seed), STREAMS[stream])


def example_keys(
    seed: Seed, stream: str, step: Step, example_index: shapes.Timesteps
) -> shapes.PRNGKeys:
    """One key per example: (B,) from its global example index, and the step."""
    step_key = jax.random.fold_in(stream_key(seed, stream), step)
    return jax.vmap(lambda i: jax.random.fold_in(step_key, i))(example_index)
