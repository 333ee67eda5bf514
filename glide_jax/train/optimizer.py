"""AdamW as an optax chain without its learning rate, and the learning rate by step.

The learning rate is a function of the step (batches consumed) and is applied in
`step.py`, so that a skipped update does not shift the schedule.
"""

from __future__ import annotations

import jax
import optax

from glide_jax import shapes
from glide_jax.config.defaults import OptimConfig


def make_optimizer(config: OptimConfig) -> optax.GradientTransformation:
    """Clipping by global norm, Adam, decoupled decay of matrices and kernels."""
    parts = []
    if config.grad_clip_norm > 0:
        parts.append(optax.clip_by_global_norm(config.grad_clip_norm))
    parts.append(optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps))
    if config.weight_decay > 0:
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=_is_decayed))
    return optax.chain(*parts)


def make_learning_rate(config: OptimConfig, num_steps: int) -> optax.Schedule:
    """Linear warm-up to `learning_rate`, then constant, cosine or linear to 0."""
    peak, warmup = config.learning_rate, config.warmup_steps
    rest = max(num_steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
    }[config.schedule]
    if warmup == 0:
        return after
    # From the first step on there is something to learn with, so not from 0.
    rise = optax.linear_schedule(peak / warmup, peak, warmup - 1)
    return optax.join_schedules([rise, after], [warmup])


def _is_decayed(params: shapes.Params) -> shapes.Params:
    """True for kernels and tables; layers are stacked, so rank alone cannot tell."""

    def rule(path: tuple, leaf: shapes.Array) -> bool:
        return leaf.ndim >= 2 and path[-1].key not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(rule, params)
