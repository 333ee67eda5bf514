"""Sampling rules that extrapolate from the estimates of earlier steps.

Both rules are a deterministic DDIM step (single_step.py, eq. 2, eta = 0) with an
extrapolated eps or x_start:

1. PLMS (PNDM, 2202.09778): the mean over [t_prev, t] of the polynomial through
   eps at t and at up to three earlier timesteps. With even spacing the weights are
   those of Adams and Bashforth: (1), (3, -1) / 2, (23, -16, 5) / 12 and
   (55, -59, 37, -9) / 24 for zero to three earlier ones.
2. DPM-Solver++(2M) (2211.01095, algorithm 2):
   D = x_start + (x_start - earlier x_start) / (2 r),
   r = (l_t - l_{t+1}) / (l_{t-1} - l_t), l the half-log-SNR, log sqrt(A / (1 - A)).

The first step has no earlier estimates and is DDIM's. So is the step from index 0,
which therefore returns pred_x_start and keeps known pixels. The reference's PLMS makes
the first three steps by Runge-Kutta, with four network calls each, and omits the first
and last timestep; ours makes one call per step on the whole chain.

Neither adds noise. A step much longer than those before it (fast27 has 800, 799, 600)
would amplify the network's error by their ratio. So eq. 1 omits the terms of steps
shorter than half of this one, and r of eq. 2 is at least 1 (ours): near the image l
changes ever faster while x_start hardly changes. Both keep their order on chains whose
steps shorten evenly as their number grows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Int

from glide_jax import array_types
from glide_jax.diffusion import guidance, process

Count = Int[array_types.Array, ""] | int
# Estimates of the steps before this one, newest first.
Earlier = tuple[array_types.Image, ...]

# Least length of an earlier step that PLMS uses, relative to this one.
_SHORTEST = 0.5


class MultistepStep(NamedTuple):
    """One step towards the image, (b, h, w, c), and the estimates for later ones."""

    x_prev: array_types.Image
    pred_x_start: array_types.Image
    earlier: Earlier


def plms_step(
    tables: process.DiffusionTables,
    model_output: process.ModelOutput,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    earlier: Earlier,
    num_earlier: Count,
    *,
    gradient: array_types.Image | None = None,
    clip_denoised: bool = True,
    denoised_fn: process.DenoisedFn | None = None,
) -> MultistepStep:
    """Applies a step of eq. 1; other arguments as in `single_step.ddpm_step`.

    `earlier` has the eps of the steps from t + 1, t + 2 and t + 3; the first
    `num_earlier`, which may be traced, are valid, and the others are ignored.
    """
    pred_x_start, eps = guidance.estimate(
        tables, model_output, x_t, t, gradient, clip_denoised, denoised_fn
    )
    better_eps = eps + _plms_correction(tables, eps, earlier, t, num_earlier)
    # The x_start of better_eps, in a form that is exact where both eps are equal.
    scale = process.gather(tables.sqrt_recipm1_alphas_cumprod, t)
    better_x_start = pred_x_start - scale * (better_eps - eps)
    x_prev = _ddim(tables, better_x_start, better_eps, t)
    return MultistepStep(x_prev, pred_x_start, (eps, *earlier[:-1]))


def dpm_solver_pp_step(
    tables: process.DiffusionTables,
    model_output: process.ModelOutput,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    earlier: Earlier,
    num_earlier: Count,
    *,
    gradient: array_types.Image | None = None,
    clip_denoised: bool = True,
    denoised_fn: process.DenoisedFn | None = None,
) -> MultistepStep:
    """Applies a step of eq. 2; `earlier` has the pred_x_start of step t + 1."""
    pred_x_start, _ = guidance.estimate(
        tables, model_output, x_t, t, gradient, clip_denoised, denoised_fn
    )
    weight = _dpm_weight(tables, t, num_earlier)
    better_x_start = pred_x_start + weight * (pred_x_start - earlier[0])
    better_eps = process.predict_eps(tables, x_t, t, better_x_start)
    x_prev = _ddim(tables, better_x_start, better_eps, t)
    return MultistepStep(x_prev, pred_x_start, (pred_x_start,))


def _as_rule(step: Callable[..., MultistepStep]) -> Callable:
    """Returns a step as a rule of `samplers.SAMPLERS`."""

    def rule(evaluate, tables, x_t, t, *, noise, eta, earlier, num_earlier, **keywords):
        output, gradient = evaluate(x_t, t)
        out = step(
            tables, output, x_t, t, earlier, num_earlier, gradient=gradient, **keywords
        )
        return out.x_prev, out.earlier

    return rule


plms, dpm_solver_pp = _as_rule(plms_step), _as_rule(dpm_solver_pp_step)


def _plms_correction(
    tables: process.DiffusionTables,
    eps: array_types.Image,
    earlier: Earlier,
    t: array_types.Timesteps,
    num_earlier: Count,
) -> array_types.Image:
    """Returns the correction of eps by eq. 1: Newton's polynomial, term by term."""
    u, is_known = _look_back(tables, t, num_earlier, len(earlier))
    # Means over v in [-1, 0] of v, v (v - u1) and v (v - u1) (v - u2).
    means = (
        -1 / 2,
        1 / 3 + u[0] / 2,
        -1 / 4 - (u[0] + u[1]) / 3 - u[0] * u[1] / 2,
    )
    nodes, differences = (0.0, *u), [eps, *earlier]
    correction = jnp.zeros_like(eps)
    for order, (mean, known) in enumerate(zip(means, is_known, strict=True), start=1):
        # Divided differences of this order, from those of the order below.
        differences = [
            (differences[i + 1] - differences[i]) / (nodes[i + order] - nodes[i])
            for i in range(len(differences) - 1)
        ]
        correction = correction + jnp.where(known, mean, 0) * differences[0]
    return correction


def _look_back(
    tables: process.DiffusionTables,
    t: array_types.Timesteps,
    num_earlier: Count,
    memory: int,
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Returns the distance of each earlier eps from t, and whether it is used.

    Distances are relative to the step from t; both are (b, 1, 1, 1), newest first. An
    unused eps has a distinct distance as well, so that nothing is divided by 0.
    """
    times = jnp.asarray(tables.timesteps, jnp.float32)
    here = process.gather(times, t)
    size = jnp.maximum(here - process.gather(times, jnp.maximum(t - 1, 0)), 1)
    known = (t != 0)[:, None, None, None]
    u, is_known, last = [], [], 0.0
    for i in range(1, memory + 1):
        index = jnp.minimum(t + i, tables.num_timesteps - 1)
        ago = (process.gather(times, index) - here) / size
        known = known & (num_earlier >= i) & (ago - last >= _SHORTEST)
        last = jnp.where(known, ago, last + 1)
        u.append(last)
        is_known.append(known)
    return u, is_known


def _dpm_weight(
    tables: process.DiffusionTables, t: array_types.Timesteps, num_earlier: Count
) -> jax.Array:
    """Returns 1 / (2 r) of eq. 2, or 0 for a step of first order; (b, 1, 1, 1)."""
    # sqrt(1 / A - 1) = exp(-l) is computed in float64, so l has an error of 1e-6 at
    # both ends; 1 - A or A in float32 would have lost its digits there.
    half_log_snr = -jnp.log(jnp.asarray(tables.sqrt_recipm1_alphas_cumprod))
    here = process.gather(half_log_snr, t)
    size = process.gather(half_log_snr, jnp.maximum(t - 1, 0)) - here
    following = jnp.minimum(t + 1, tables.num_timesteps - 1)
    size_before = here - process.gather(half_log_snr, following)
    is_second_order = (t != 0)[:, None, None, None] & (num_earlier >= 1)
    r = jnp.maximum(size_before / jnp.where(is_second_order, size, 1), 1)
    return jnp.where(is_second_order, 1 / (2 * r), 0)


def _ddim(
    tables: process.DiffusionTables,
    x_start: array_types.Image,
    eps: array_types.Image,
    t: array_types.Timesteps,
) -> array_types.Image:
    """Returns x_prev of a DDIM step without noise."""
    prev = process.gather(tables.alphas_cumprod_prev, t)
    return jnp.sqrt(prev) * x_start + jnp.sqrt(1 - prev) * eps
