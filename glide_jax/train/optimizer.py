"""The optimizer as an optax chain without learning rate, and the rate's schedule.

The learning rate is a function of the step (batches consumed) and is applied in
`step.py`, so that a skipped update does not shift the schedule. A skipped update,
`optim.update(grads, state, params, is_good=False)`, leaves the moments as they are; its
directions have no meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from glide_jax import array_types
from glide_jax.config.defaults import OptimConfig

# Adafactor's, arXiv 1804.04235 sections 7.2 and 6: the second moment's decay is
# 1 - step ** -0.8, and an update's root mean square is at most 1.
ADAFACTOR_DECAY_EXPONENT = 0.8
ADAFACTOR_CLIP = 1.0


def make_optimizer(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """Global norm clipping, the named rule, decoupled decay of matrices and kernels.

    `moments_dtype` applies to first moments only: a second moment that decays by one
    thousandth per step would not change at all in bfloat16's eight bits.
    """
    parts = []
    if config.grad_clip_norm > 0:
        parts.append(optax.clip_by_global_norm(config.grad_clip_norm))
    parts.append(RULES[config.name](config))
    if config.weight_decay > 0:
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=_is_decayed))
    return optax.chain(*parts)


def _adamw(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """Adam with decoupled decay (arXiv 1711.05101), equal to optax.scale_by_adam.

    On CPUs the float32 moments are updated in place. A select after optax.scale_by_adam
    would need the old moments twice.
    """
    b1, b2, dtype = config.b1, config.b2, jnp.dtype(config.moments_dtype)

    def update(updates, state, params=None, *, is_good=True, **extra_args):
        del params, extra_args
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        old = (state.mu, state.nu)
        mu, nu = compute_once(optax.tree.where(is_good, (mu, nu), old))
        count = optax.safe_increment(state.count)
        directions = jax.tree.map(
            lambda m, v: m / (jnp.sqrt(v) + config.eps),
            optax.tree.bias_correction(mu, b1, count),
            optax.tree.bias_correction(nu, b2, count),
        )
        count = jnp.where(is_good, count, state.count)
        mu = optax.tree.cast(mu, dtype)
        return directions, optax.ScaleByAdamState(count, mu, nu)

    init = optax.scale_by_adam(mu_dtype=dtype).init
    return optax.GradientTransformationExtraArgs(init, update)


def _lion(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """The sign of a momentum (arXiv 2302.06675): one moment instead of two."""
    dtype = jnp.dtype(config.moments_dtype)
    return _skippable(optax.scale_by_lion(b1=config.b1, b2=config.b2, mu_dtype=dtype))


def _adafactor(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """Factored second moments by row and column sums (arXiv 1804.04235).

    As in arXiv 2106.04560, with Adam's learning rate instead of one relative to the
    parameters, and with a first moment unless b1 is 0.
    """
    parts = [
        optax.scale_by_factored_rms(decay_rate=ADAFACTOR_DECAY_EXPONENT),
        optax.clip_by_block_rms(ADAFACTOR_CLIP),
    ]
    if config.b1 > 0:
        dtype = jnp.dtype(config.moments_dtype)
        parts.append(optax.ema(config.b1, debias=False, accumulator_dtype=dtype))
    return _skippable(optax.chain(*parts))


def _skippable(
    rule: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Returns the rule with the argument `is_good`."""

    def update(updates, state, params=None, *, is_good=True, **extra_args):
        del extra_args
        directions, new = rule.update(updates, state, params)
        return directions, optax.tree.where(is_good, new, state)

    return optax.GradientTransformationExtraArgs(rule.init, update)


def compute_once(tree: Any) -> Any:
    """Returns the tree, with a barrier after each leaf on CPUs.

    Without it XLA fuses the computation of a leaf into its users. Such a fusion reads
    the old value, which XLA therefore copies before it overwrites it.
    """
    return jax.lax.platform_dependent(
        tree,
        cpu=lambda tree: jax.tree.map(jax.lax.optimization_barrier, tree),
        default=lambda tree: tree,
    )


RULES: dict[str, Callable[[OptimConfig], optax.GradientTransformationExtraArgs]] = {
    "adamw": _adamw,
    "adafactor": _adafactor,
    "lion": _lion,
}


def warmup_steps(config: OptimConfig, num_steps: int) -> int:
    """Warm-up steps: a tenth of a run that is too short for optim.warmup_steps.

    A run is too short if it decays the learning rate and has no steps left for that.
    """
    if config.schedule == "constant" or config.warmup_steps < num_steps:
        return config.warmup_steps
    return num_steps // 10


def make_learning_rate(config: OptimConfig, num_steps: int) -> optax.Schedule:
    """Linear warm-up to `learning_rate`, then constant, cosine or linear to 0."""
    peak, warmup = config.learning_rate, warmup_steps(config, num_steps)
    rest = max(num_steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
    }[config.schedule]
    if warmup == 0:
        return after
    # Starts above 0, so that the first step already learns.
    rise = optax.linear_schedule(peak / warmup, peak, warmup - 1)
    return optax.join_schedules([rise, after], [warmup])


def _is_decayed(params: array_types.Params) -> array_types.Params:
    """True for kernels and tables; layers are stacked, so rank is not sufficient."""

    def rule(path: tuple, leaf: array_types.Array) -> bool:
        return leaf.ndim >= 2 and path[-1].key not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(rule, params)
