"""Exponential moving averages of the parameters, several horizons at once.

ema_k = d_k ema_{k-1} + (1 - d_k) params_k, without bias correction (the averages start
as the parameters). With warm-up d_k = min(decay, (1 + k) / (10 + k)), k counted from 0:
a 0.9999 average would otherwise be mostly its start for the first 10,000 steps.
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
    new = {}
    for decay in config.decays:
        d = decay_at(decay, updates, warmup=config.warmup)
        new[str(decay)] = jax.tree.map(
            lambda average, value, d=d: average + (1 - d) * (value - average),
            ema_params[str(decay)],
            params,
        )
    return new
