"""Sampling rules that use the network's output at the current step alone.

1. DDPM: x_{t-1} = mean + exp(log_variance / 2) noise, no noise at t = 0 (2006.11239,
   algorithm 2)
2. DDIM: x_{t-1} = sqrt(A_{t-1}) x_start + sqrt(1 - A_{t-1} - s^2) eps + s noise,
   s = eta sqrt((1 - A_{t-1}) / (1 - A_t)) sqrt(1 - A_t / A_{t-1}), eps implied by the
   clipped x_start (2010.02502, eq. 12 and 16)
3. DDIM reversed, eta = 0: x_{t+1} = sqrt(A_{t+1}) x_start + sqrt(1 - A_{t+1}) eps
4. Heun: DDIM, eta = 0, with x_start averaged over both ends of the step (2206.00364,
   algorithm 1, in the variable sqrt(A / (1 - A)))

A rule is a pure function of the network's output. A gradient shifts the mean in 1 and
the score in 2 to 4 (see guidance.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from glide_jax import array_types
from glide_jax.diffusion import guidance, process

# (x_t, t) -> (model_output, gradient or None), t an index into the tables
Evaluate = Callable[
    [array_types.Image, array_types.Timesteps],
    tuple[process.ModelOutput, array_types.Image | None],
]


class SampleStep(NamedTuple):
    """One step towards the image; both (b, h, w, c)."""

    x_prev: array_types.Image
    pred_x_start: array_types.Image


class ReverseStep(NamedTuple):
    """One step towards noise; both (b, h, w, c)."""

    x_next: array_types.Image
    pred_x_start: array_types.Image


def ddpm_step(
    tables: process.DiffusionTables,
    model_output: process.ModelOutput,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    noise: array_types.Image,
    *,
    gradient: array_types.Image | None = None,
    clip_denoised: bool = True,
    denoised_fn: process.DenoisedFn | None = None,
) -> SampleStep:
    """Applies an ancestral step, eq. 1.

    Args:
      tables: chain that `t` indexes.
      model_output: output of the network at x_t, after classifier-free guidance.
      x_t: noised images.
      t: (b,) indices into `tables`.
      noise: standard normal draw; unused where t = 0.
      gradient: guidance gradient at x_t, or None.
      clip_denoised: static; clip pred_x_start to [-1, 1].
      denoised_fn: static; see process.p_mean_variance.
    """
    out = process.p_mean_variance(
        tables,
        model_output,
        x_t,
        t,
        clip_denoised=clip_denoised,
        denoised_fn=denoised_fn,
    )
    mean = out.mean
    if gradient is not None:
        mean = guidance.shift_mean(mean, out.variance, gradient)
    std = _unless_last(t) * jnp.exp(0.5 * out.log_variance)
    return SampleStep(mean + std * noise, out.pred_x_start)


def ddim_step(
    tables: process.DiffusionTables,
    model_output: process.ModelOutput,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    noise: array_types.Image,
    *,
    eta: array_types.Scalar = 0.0,
    gradient: array_types.Image | None = None,
    clip_denoised: bool = True,
    denoised_fn: process.DenoisedFn | None = None,
) -> SampleStep:
    """Applies an implicit step, eq. 2; arguments as in `ddpm_step`.

    `eta` in [0, 1] may be traced: 0 is deterministic, 1 has DDPM's variance.
    """
    pred_x_start, eps = guidance.estimate(
        tables, model_output, x_t, t, gradient, clip_denoised, denoised_fn
    )
    cumprod = process.gather(tables.alphas_cumprod, t)
    prev = process.gather(tables.alphas_cumprod_prev, t)
    sigma = eta * jnp.sqrt((1 - prev) / (1 - cumprod)) * jnp.sqrt(1 - cumprod / prev)
    # At eta = 1, rounding can make the argument negative on the noisiest step.
    direction = jnp.sqrt(jnp.maximum(1 - prev - sigma**2, 0))
    x_prev = jnp.sqrt(prev) * pred_x_start + direction * eps
    return SampleStep(x_prev + _unless_last(t) * sigma * noise, pred_x_start)


def ddim_reverse_step(
    tables: process.DiffusionTables,
    model_output: process.ModelOutput,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    *,
    gradient: array_types.Image | None = None,
    clip_denoised: bool = True,
    denoised_fn: process.DenoisedFn | None = None,
) -> ReverseStep:
    """Applies a deterministic step to index t + 1, eq. 3; see `ddpm_step`."""
    pred_x_start, eps = guidance.estimate(
        tables, model_output, x_t, t, gradient, clip_denoised, denoised_fn
    )
    following = process.gather(tables.alphas_cumprod_next, t)
    x_next = jnp.sqrt(following) * pred_x_start + jnp.sqrt(1 - following) * eps
    return ReverseStep(x_next, pred_x_start)


def heun_step(
    evaluate: Evaluate,
    tables: process.DiffusionTables,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    *,
    clip_denoised: bool = True,
    denoised_fn: process.DenoisedFn | None = None,
) -> SampleStep:
    """Applies a second-order deterministic step, eq. 4; two network evaluations.

    With y = x_t / sqrt(1 - A) and u = sqrt(A / (1 - A)), the probability-flow ODE is
    dy/du = x_start(y, u). The predictor is Euler's step, which is DDIM's; the corrector
    uses the mean of x_start at both ends. Algorithm 1 integrates the same ODE in 1 / u
    and averages eps, which at the noisiest index (1 / u = 2e4 under the cosine
    schedule) amplifies the error of x_start; here the mean stays within [-1, 1]. The
    step from index 0 is DDIM's, which returns pred_x_start: u is infinite at its end.

    `evaluate` is called at t and at t - 1; the other arguments are as in `ddpm_step`.
    """

    def estimate(images, index):
        output, gradient = evaluate(images, index)
        return guidance.estimate(
            tables, output, images, index, gradient, clip_denoised, denoised_fn
        )[0]

    def ddim(x_start):
        eps = process.predict_eps(tables, x_t, t, x_start)
        prev = process.gather(tables.alphas_cumprod_prev, t)
        return jnp.sqrt(prev) * x_start + jnp.sqrt(1 - prev) * eps

    first = estimate(x_t, t)
    second = estimate(ddim(first), jnp.maximum(t - 1, 0))
    pred_x_start = first + 0.5 * _unless_last(t) * (second - first)
    return SampleStep(ddim(pred_x_start), pred_x_start)


def ddpm(evaluate, tables, x_t, t, *, noise, eta, earlier, num_earlier, **keywords):
    """`ddpm_step` as a rule of `samplers.SAMPLERS`."""
    output, gradient = evaluate(x_t, t)
    out = ddpm_step(tables, output, x_t, t, noise, gradient=gradient, **keywords)
    return out.x_prev, earlier


def ddim(evaluate, tables, x_t, t, *, noise, eta, earlier, num_earlier, **keywords):
    """`ddim_step` as a rule of `samplers.SAMPLERS`."""
    output, gradient = evaluate(x_t, t)
    out = ddim_step(
        tables, output, x_t, t, noise, eta=eta, gradient=gradient, **keywords
    )
    return out.x_prev, earlier


def heun(evaluate, tables, x_t, t, *, noise, eta, earlier, num_earlier, **keywords):
    """`heun_step` as a rule of `samplers.SAMPLERS`."""
    return heun_step(evaluate, tables, x_t, t, **keywords).x_prev, earlier


def _unless_last(t: array_types.Timesteps) -> jax.Array:
    """Returns 0 where t is 0, the step that returns the image, else 1; (b, 1, 1, 1)."""
    return jnp.asarray(t != 0, jnp.float32)[:, None, None, None]
