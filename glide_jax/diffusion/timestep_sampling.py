"""Sampling of t for training examples, and the weights that correct for it.

1. Uniform: t ~ U{0..T-1}, weight 1.
2. Loss-second-moment (Improved DDPM, 2102.09672, section 3.3):
   p_t = (1 - u) sqrt(E[L_t^2]) / sum_s sqrt(E[L_s^2]) + u / T over the last `history`
   losses of each t; uniform until every t has that many.
3. Power (ours): p_t proportional to ((t + 1) / T)^power. A positive power visits high
   noise more, 0 is uniform.

With the weight 1 / (T p_t), the mean loss is that of uniform sampling for any p.
Training uses it with eq. 2, but not with eq. 3, which is to change the mean.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from glide_jax import array_types

# Any, as jax also fills a pytree's fields with shardings, shapes and placeholders.
LossHistory = Float[array_types.Array, "k n"] | Any
LossCounts = Int[array_types.Array, "k"] | Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossSecondMoment:
    """The last losses seen at each timestep, oldest first; a pytree.

    Row t of `history` is filled up to `counts[t]`, and 0 from there on.
    """

    history: LossHistory
    counts: LossCounts


def uniform(
    keys: array_types.PRNGKeys, num_timesteps: int
) -> tuple[array_types.Timesteps, array_types.PerExample]:
    """Returns t, (b,) int32, each drawn from its own key, and weights of 1; eq. 1."""
    t = jax.vmap(lambda key: jax.random.randint(key, (), 0, num_timesteps))(keys)
    return t.astype(jnp.int32), jnp.ones(t.shape, jnp.float32)


def draw(
    keys: array_types.PRNGKeys, probabilities: array_types.Table
) -> tuple[array_types.Timesteps, array_types.PerExample]:
    """Returns t, (b,) int32, drawn from probabilities (k,), and weights 1 / (k p_t)."""
    probabilities = jnp.asarray(probabilities, jnp.float32)
    logits = jnp.log(probabilities)
    t = jax.vmap(lambda key: jax.random.categorical(key, logits))(keys)
    weights = 1 / (probabilities.shape[0] * probabilities[t])
    return t.astype(jnp.int32), weights


def power_probabilities(num_timesteps: int, power: float) -> array_types.Table:
    """Returns p_t of eq. 3, (num_timesteps,), float32."""
    weights = (jnp.arange(1, num_timesteps + 1) / num_timesteps) ** power
    return weights / jnp.sum(weights)


def init_loss_second_moment(num_timesteps: int, history: int = 10) -> LossSecondMoment:
    """Returns the state without losses; the paper keeps 10 losses per timestep."""
    return LossSecondMoment(
        history=jnp.zeros((num_timesteps, history), jnp.float32),
        counts=jnp.zeros((num_timesteps,), jnp.int32),
    )


def loss_second_moment_probabilities(
    state: LossSecondMoment, uniform_prob: float = 0.001
) -> array_types.Table:
    """Returns p_t of eq. 2, (k,); 1 / k until every timestep has a full history.

    `uniform_prob` is u, which keeps timesteps with tiny losses in the sample.
    """
    num_timesteps, history = state.history.shape
    root = jnp.sqrt(jnp.mean(jnp.square(state.history), axis=1))
    weighted = root / jnp.sum(root) * (1 - uniform_prob) + uniform_prob / num_timesteps
    is_warm = jnp.all(state.counts == history)
    return jnp.where(is_warm, weighted, 1 / num_timesteps)


def update_loss_second_moment(
    state: LossSecondMoment, t: array_types.Timesteps, losses: array_types.PerExample
) -> LossSecondMoment:
    """Returns the state after pushing losses[i] onto row t[i] for each i in order.

    It is one scatter, for use in the jitted step; t and the unweighted losses are those
    of the global batch.
    """
    num_timesteps, history = state.history.shape
    t = jnp.asarray(t)
    total = state.counts + jnp.bincount(t, length=num_timesteps)
    counts = jnp.minimum(total, history)
    # Old losses move left; the columns at the right are overwritten below.
    columns = jnp.arange(history) + jnp.maximum(total - history, 0)[:, None]
    shifted = jnp.take_along_axis(
        jnp.asarray(state.history), jnp.minimum(columns, history - 1), axis=1
    )
    # The last loss of a row gets its last column, the one before the column before.
    is_later_twin = jnp.triu(t[:, None] == t[None, :], k=1)
    column = counts[t] - 1 - jnp.sum(is_later_twin, axis=1)
    # Losses that their own batch pushes out: beyond the end, where scatter drops them.
    column = jnp.where(column < 0, history, column)
    new = shifted.at[t, column].set(jnp.asarray(losses, jnp.float32), mode="drop")
    return LossSecondMoment(history=new, counts=counts.astype(jnp.int32))
