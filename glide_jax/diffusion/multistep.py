"""Sampling rules that extrapolate from the estimates of earlier steps.

Both rules are a deterministic DDIM step (single_step.py, eq. 2, eta = 0) whose eps or
x_start is first extrapolated to where the step needs it:

1. PLMS (PNDM, 2202.09778): the mean over [t_prev, t] of the polynomial through
   eps at t and at up to three earlier timesteps. With even spacing its weights are
   those of Adams and Bashforth, (55, -59, 37, -9) / 24, and before there are three
   earlier ones (1), (3, -1) / 2 and (23, -16, 5) / 12.
2. DPM-Solver++(2M) (2211.01095, algorithm 2):
   D = x_start + (x_start - earlier x_start) / (2 r),
   r = (l_t - l_{t+1}) / (l_{t-1} - l_t), l the half-log-SNR, log sqrt(A / (1 - A)).

The first step walked has nothing earlier and is DDIM's; so is the one from index 0, so
that it lands on pred_x_start and known pixels stay known. There the reference's PLMS
makes its first three steps by Runge-Kutta, at four network calls each, and leaves out
the first and last timestep; ours makes one call a step on the whole chain.

Both are one call a step and without noise. They extrapolate, so a step much longer than
the ones before it (fast27 walks 800, 799, 600) would magnify the network's error by
their ratio. So eq. 1 leaves out its parts that rest on a step shorter than half of this
one, and r of eq. 2 is at least 1 (ours): near the image l moves ever faster while
x_start hardly moves any more, and beyond the change seen last nothing speaks for more.
On steps that shorten evenly as their number grows both keep their order.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Int

from glide_jax import array_types
from glide_jax.diffusion import guidance, process

Count = Int[array_types.Array, ""] | int
# Estimates of the steps before this one, newest first.
Earlier = tuple[array_types.Image, ...]

# How many estimates each rule looks back on.
PLMS_MEMORY = 3
DPM_SOLVER_PP_MEMORY = 1

# Of a step's length in timesteps: PLMS rests on no earlier step shorter than this.
_SHORTEST = 0.5


class MultistepStep(NamedTuple):
    """One step towards the image, (b, h, w, c), and what later ones shall remember."""

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
    """Step of eq. 1; what is not said here is as in `single_step.ddpm_step`.

    Args:
      tables: chain that `t` indexes.
      model_output: what the network returned at x_t.
      x_t: noised images.
      t: (b,) indices; the step before was made from t + 1.
      earlier: eps of the steps from t + 1, t + 2 and t + 3.
      num_earlier: number of valid entries; the others are ignored. May be
          traced.
      gradient: guidance gradient at x_t, or None; shifts the score.
      clip_denoised: static.
      denoised_fn: static.
    """
    pred_x_start, eps = guidance.estimate(
        tables, model_output, x_t, t, gradient, clip_denoised, denoised_fn
    )
    better_eps = eps + _plms_correction(tables, eps, earlier, t, num_earlier)
    # The x_start of better_eps, in a form that is pred_x_start where they are equal.
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
    """Step of eq. 2; as `plms_step`, but `earlier` is the one pred_x_start of t + 1."""
    pred_x_start, _ = guidance.estimate(
        tables, model_output, x_t, t, gradient, clip_denoised, denoised_fn
    )
    weight = _dpm_weight(tables, t, num_earlier)
    better_x_start = pred_x_start + weight * (pred_x_start - earlier[0])
    better_eps = process.predict_eps(tables, x_t, t, better_x_start)
    x_prev = _ddim(tables, better_x_start, better_eps, t)
    return MultistepStep(x_prev, pred_x_start, (pred_x_start,))


def _plms_correction(
    tables: process.DiffusionTables,
    eps: array_types.Image,
    earlier: Earlier,
    t: array_types.Timesteps,
    num_earlier: Count,
) -> array_types.Image:
    """What eq. 1 adds to eps: Newton's polynomial, term by term, over the next step."""
    u, is_known = _look_back(tables, t, num_earlier)
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
    tables: process.DiffusionTables, t: array_types.Timesteps, num_earlier: Count
) -> tuple[list[jax.Array], list[jax.Array]]:
    """(how long before t each earlier eps was found, whether to use it), newest first.

    In lengths of the step from t; both (b, 1, 1, 1). An eps that is not used gets a
    time all the same, unlike the others' so that none is divided by 0.
    """
    times = jnp.asarray(tables.timesteps, jnp.float32)
    here = process.gather(times, t)
    size = jnp.maximum(here - process.gather(times, jnp.maximum(t - 1, 0)), 1)
    known = (t != 0)[:, None, None, None]
    u, is_known, last = [], [], 0.0
    for i in range(1, PLMS_MEMORY + 1):
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
    """1 / (2 r) of eq. 2, or 0 for a step of first order; (b, 1, 1, 1)."""
    # sqrt(1 / A - 1) = exp(-l) is stored from float64, so l is good to 1e-6 at both
    # ends, where 1 - A or A itself would have lost its digits.
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
    """The DDIM step without noise that this x_start and eps make."""
    prev = process.gather(tables.alphas_cumprod_prev, t)
    return jnp.sqrt(prev) * x_start + jnp.sqrt(1 - prev) * eps
