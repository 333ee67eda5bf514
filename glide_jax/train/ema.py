"""Exponential moving averages of the parameters, several horizons at once.

ema_k = d_k ema_{k-1} + (1 - d_k) params_k, without bias correction (the averages start
as the parameters). With warm-up d_k = min(decay, (1 + k) / (10 + k)), k counted from 0:
otherwise the initial values dominate a 0.9999 average for the first 10,000 steps.

With every_steps = n the averages are updated every n-th step only, with d_k ** n: the
same horizon for 1/n of the memory traffic.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Int

from glide_jax import shapes
from glide_jax.config.defaults import EmaConfig

Count = Int[shapes.Array, ""] | int


def decay_at(decay: float, updates: Count, *, warmup: bool) -> jax.Array:
    """The decay of update number `updates` (from 0)."""
    if not warmup:
        return jnp.float32(decay)
    k = jnp.asarray(updates, jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1 + k) / (10 + k))


def update(
    config: EmaConfig,
    ema_params: dict[str, shapes.Params],
    params: shapes.Params,
    updates: Count,
) -> dict[str, shapes.Params]:
    """All averages after one more update of the parameters."""

    def average_all():
        return {
            str(decay): _average(config, decay, ema_params[str(decay)], params, updates)
            for decay in config.decays
        }

    if config.every_steps == 1:
        return average_all()
    is_due = (updates + 1) % config.every_steps == 0
    return jax.lax.cond(is_due, average_all, lambda: ema_params)


def _average(
    config: EmaConfig,
    decay: float,
    average: shapes.Params,
    params: shapes.Params,
    updates: Count,
) -> shapes.Params:
    d = decay_at(decay, updates, warmup=config.warmup) ** config.every_steps
    return jax.tree.map(lambda old, new: old + (1 - d) * (new - old), average, params)
