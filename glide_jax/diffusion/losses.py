"""Losses of the network's output, per example.

1. mse = mean (noise - pred_eps)^2                                  DDPM eq. 14
   (of v or x_start for a network that predicts it)
2. vb, in bits per dimension                                        DDPM eq. 5
   t > 0: KL(q(x_{t-1} | x_t, x_start) || p(x_{t-1} | x_t))
   t = 0: -log p(x_start | x_1), a Gaussian integrated over 8-bit bins, DDPM eq. 13
3. hybrid = mse + T / 1000 vb, the mean stopped in vb               Improved DDPM eq. 16
4. prior = KL(q(x_{T-1} | x_start) || N(0, I)), in bits per dimension
5. total bits per dimension = sum over t of vb + prior
6. truncated_snr = max(1, A_t / (1 - A_t)) mean (x_target - x_start)^2
   = max(mean (x_target - x_start)^2, mean (eps_target - eps)^2)    2202.00512, sec. 4
7. weights of mean (x_target - x_start)^2, for a cap g of SNR_t = A_t / (1 - A_t):
   min_snr min(SNR_t, g)                                                    2303.09556
   sigmoid g SNR_t / (g + SNR_t) = SNR_t sigmoid(log g - log SNR_t)         2410.19324
   The mse of x_start is 1 - A_t times that of v, and 1 / SNR_t times that of eps.

DDPM is arXiv 2006.11239, Improved DDPM 2102.09672. One random t estimates 1/T of the
sum in eq. 5, so eq. 3 at T = 1000 is Improved DDPM's lambda = 0.001. Values are per
example, (b,), without weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from glide_jax import array_types
from glide_jax.diffusion import process, sampling_loop
from glide_jax.errors import UserError

WEIGHTINGS = ("none", "min_snr", "sigmoid")
LOSS_TYPES = ("mse", "hybrid", "mse_vb", "kl", "rescaled_kl", "truncated_snr")


def mse(first: array_types.Image, second: array_types.Image) -> array_types.PerExample:
    """Returns the mean squared difference of each example, (b,)."""
    return _mean_flat(jnp.square(jnp.asarray(first) - second))


def vb_terms(
    tables: process.DiffusionTables,
    model_output: process.ModelOutput,
    x_start: array_types.Image,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    *,
    clip_denoised: bool = False,
) -> tuple[array_types.PerExample, array_types.Image]:
    """Returns vb in bits per dimension, (b,), eq. 2, and pred_x_start, (b, h, w, c).

    Training does not clip pred_x_start, since the clip would stop its gradient.
    """
    true = process.q_posterior_mean_variance(tables, x_start, x_t, t)
    out = process.p_mean_variance(
        tables, model_output, x_t, t, clip_denoised=clip_denoised
    )
    kl = _normal_kl(true.mean, true.log_variance, out.mean, out.log_variance)
    log_likelihood = _discretized_log_likelihood(
        x_start, out.mean, 0.5 * out.log_variance
    )
    nats = jnp.where(t == 0, -_mean_flat(log_likelihood), _mean_flat(kl))
    return nats / math.log(2), out.pred_x_start


def training_losses(
    tables: process.DiffusionTables,
    model_output: process.ModelOutput,
    x_start: array_types.Image,
    x_t: array_types.Image,
    noise: array_types.Image,
    t: array_types.Timesteps,
    *,
    loss_type: str = "hybrid",
) -> dict[str, array_types.PerExample]:
    """Returns {"loss", "mse", "vb"}, each (b,); "loss" is the one to minimise.

    Args:
      tables: chain that `t` indexes.
      model_output: output of the network at x_t.
      x_start: clean images in [-1, 1].
      x_t: q_sample(tables, x_start, t, noise).
      noise: the noise in x_t, the target of pred_eps.
      t: (b,) indices into `tables`.
      loss_type: static. "hybrid" is eq. 3 (the reference's RESCALED_MSE), "mse"
        eq. 1 alone, "mse_vb" eq. 3 without the T / 1000 (the reference's MSE), "kl"
        eq. 2 with its mean not stopped, "rescaled_kl" that times T, "truncated_snr"
        eq. 6, which has no vb and is the only one for prediction=x_and_eps.

    Raises:
      UserError: unknown loss_type.
    """
    if loss_type not in LOSS_TYPES:
        raise UserError(
            f"loss_type={loss_type!r} is not a known loss; "
            f"use one of {', '.join(LOSS_TYPES)}"
        )
    if loss_type == "truncated_snr":
        return truncated_snr(tables, model_output, x_start, x_t, t)
    predicted, var_values = process.split_output(model_output)
    is_kl = loss_type in ("kl", "rescaled_kl")
    # vb has much noisier gradients than mse, so it trains the variance only.
    vb_mean = predicted if is_kl else jax.lax.stop_gradient(predicted)
    vb_output = jnp.concatenate([vb_mean, var_values], axis=-1)
    vb, _ = vb_terms(tables, vb_output, x_start, x_t, t)
    if loss_type == "hybrid":
        vb = vb * (tables.num_timesteps / 1000)
    elif loss_type == "rescaled_kl":
        vb = vb * tables.num_timesteps
    error = mse(_target(tables, x_start, noise, t), predicted)
    loss = {"mse": error, "kl": vb, "rescaled_kl": vb}.get(loss_type, error + vb)
    return {"loss": loss, "mse": error, "vb": vb}


def truncated_snr(
    tables: process.DiffusionTables,
    model_output: process.ModelOutput,
    x_target: array_types.Image,
    x_t: array_types.Image,
    t: array_types.Timesteps,
) -> dict[str, array_types.PerExample]:
    """Returns {"loss", "mse", "x_mse"}, each (b,): eq. 6, and the errors of eps and x.

    `x_target` is the clean image, or the one that a teacher predicts; the other
    arguments are those of `training_losses`.
    """
    x_start = process.predict(tables, model_output, x_t, t).x_start
    x_mse = mse(x_target, x_start)
    cumprod = jnp.asarray(tables.alphas_cumprod)[t]
    eps_mse = cumprod / (1 - cumprod) * x_mse
    return {"loss": jnp.maximum(x_mse, eps_mse), "mse": eps_mse, "x_mse": x_mse}


def mse_weights(
    tables: process.DiffusionTables,
    t: array_types.Timesteps,
    weighting: str,
    snr_cap: float,
) -> array_types.PerExample:
    """Returns the factors of "mse", (b,), that give the weights of eq. 7; "none": 1.

    Args:
      tables: chain that `t` indexes, of a network that predicts eps, v or x.
      t: (b,).
      weighting: one of `WEIGHTINGS`.
      snr_cap: g of eq. 7, above 0.
    """
    if weighting == "none":
        return jnp.ones(t.shape, jnp.float32)
    cumprod = jnp.asarray(tables.alphas_cumprod)[t]
    snr = cumprod / (1 - cumprod)
    weights = {
        "min_snr": lambda: jnp.minimum(snr, snr_cap),
        "sigmoid": lambda: snr_cap * snr / (snr_cap + snr),
    }[weighting]()
    # The error of x_start, as a multiple of that of what the network predicts.
    factor = {"v": 1 - cumprod, "eps": 1 / snr, "x": 1.0}[tables.prediction]
    return weights * factor


def _target(
    tables: process.DiffusionTables,
    x_start: array_types.Image,
    noise: array_types.Image,
    t: array_types.Timesteps,
) -> jax.Array:
    """Returns the target of the first half of the output: eps, x_start or v."""
    if tables.prediction == "eps":
        return jnp.asarray(noise)
    if tables.prediction == "x":
        return jnp.asarray(x_start)
    alpha = process.gather(tables.sqrt_alphas_cumprod, t)
    sigma = process.gather(tables.sqrt_one_minus_alphas_cumprod, t)
    return alpha * noise - sigma * x_start


def prior_bpd(
    tables: process.DiffusionTables, x_start: array_types.Image
) -> array_types.PerExample:
    """Returns the KL divergence of the noisiest x_t from the prior, (b,), eq. 4."""
    t = jnp.full(x_start.shape[:1], tables.num_timesteps - 1)
    mean, _, log_variance = process.q_mean_variance(tables, x_start, t)
    return _mean_flat(_normal_kl(mean, log_variance, 0.0, 0.0)) / math.log(2)


def bits_per_dimension(
    denoise: sampling_loop.Denoise,
    tables: process.DiffusionTables,
    x_start: array_types.Image,
    noise_fn: Callable[[array_types.Timesteps], array_types.Image],
    *,
    clip_denoised: bool = True,
) -> dict[str, array_types.Array]:
    """Returns the terms of the variational bound of eq. 5, one pass for each step.

    `eval/losses.py` estimates it from a few drawn timesteps of many examples.

    Args:
      denoise: (x_t, timesteps) -> model_output, with timesteps of the training chain.
      tables: the chain of k steps.
      x_start: images in [-1, 1] of 8 bits a channel.
      noise_fn: t (b,) -> noise of that step, e.g. samplers.step_noise with its keys
        and shape bound; traced once, in a scan.
      clip_denoised: static; clip pred_x_start to [-1, 1].

    Returns:
      total_bpd and prior_bpd (b,); vb, xstart_mse and mse (b, k), with t = k-1 in
      column 0 and t = 0 in the last, in the order of the walk.
    """

    def body(_: None, index: jax.Array) -> tuple[None, dict[str, array_types.Array]]:
        t = jnp.full(x_start.shape[:1], index, jnp.int32)
        noise = noise_fn(t)
        x_t = process.q_sample(tables, x_start, t, noise)
        model_output = denoise(x_t, tables.timesteps[t])
        vb, pred_x_start = vb_terms(
            tables, model_output, x_start, x_t, t, clip_denoised=clip_denoised
        )
        pred_eps = process.predict_eps(tables, x_t, t, pred_x_start)
        return None, {
            "vb": vb,
            "xstart_mse": mse(pred_x_start, x_start),
            "mse": mse(pred_eps, noise),
        }

    indices = jnp.arange(tables.num_timesteps - 1, -1, -1)
    _, stacked = jax.lax.scan(body, None, indices)
    terms = {name: values.T for name, values in stacked.items()}
    prior = prior_bpd(tables, x_start)
    return {"total_bpd": terms["vb"].sum(axis=1) + prior, "prior_bpd": prior, **terms}


def _mean_flat(values: array_types.Array) -> jax.Array:
    """Returns the mean over all but the batch axis, (b,)."""
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))


def _normal_kl(
    mean1: array_types.Array,
    log_variance1: array_types.Array,
    mean2: array_types.Array | float,
    log_variance2: array_types.Array | float,
) -> array_types.Array:
    """Returns KL(N(mean1, e^lv1) || N(mean2, e^lv2)) per element, in nats."""
    return 0.5 * (
        -1.0
        + log_variance2
        - log_variance1
        + jnp.exp(log_variance1 - log_variance2)
        + jnp.square(mean1 - mean2) * jnp.exp(-log_variance2)
    )


def _approx_normal_cdf(x: array_types.Image) -> jax.Array:
    """Returns the tanh approximation of the normal CDF, as in the reference."""
    return 0.5 * (1.0 + _tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _tanh(x: array_types.Image) -> jax.Array:
    """Returns tanh within float32 rounding, 8e-8, also in its tails.

    XLA's tanh has an error of 2.6e-7 on a CPU. The mass of a narrow bin is a difference
    of two of them near 1, and its log then has an error of 3e-4 of the loss.
    """
    decay = jnp.exp(-2 * jnp.abs(x))
    tail = jnp.sign(x) * (1 - 2 * decay / (1 + decay))
    return jnp.where(jnp.abs(x) < 0.5, jnp.tanh(x), tail)


def _discretized_log_likelihood(
    x_start: array_types.Image,
    mean: array_types.Image,
    log_scale: array_types.Image,
) -> jax.Array:
    """Returns the log mass, in nats, of a Gaussian on the 8-bit bin of each value.

    A bin is 1/255 wide on either side; the two outer ones are open (beyond +-0.999).
    """
    centered = x_start - mean
    inverse_scale = jnp.exp(-log_scale)
    cdf_above = _approx_normal_cdf(inverse_scale * (centered + 1 / 255))
    cdf_below = _approx_normal_cdf(inverse_scale * (centered - 1 / 255))
    mass = jnp.where(
        x_start < -0.999,
        cdf_above,
        jnp.where(x_start > 0.999, 1 - cdf_below, cdf_above - cdf_below),
    )
    # 1e-12 (reference) keeps the log of a bin without mass finite.
    return jnp.log(jnp.maximum(mass, 1e-12))


def low_pass_mse(
    model_output: process.ModelOutput, noise: array_types.Image, factor: int
) -> jax.Array:
    """Returns the squared error, (b,), of factor x factor means of eps, times factor.

    The network predicts eps. The means of unit noise have variance factor^-2, so the
    coarse structure of a large picture is one part in factor^2 of the plain loss and is
    learned last. After the multiscale loss of Simple Diffusion (2301.11093); the weight
    is ours.
    """
    error = process.split_output(model_output)[0] - noise
    b, h, w, c = error.shape
    means = error.reshape(b, h // factor, factor, w // factor, factor, c)
    return factor * jnp.mean(jnp.square(means.mean(axis=(2, 4))), axis=(1, 2, 3))
