"""The forward process and its learned reverse at one timestep.

Symbols: b_t betas, a_t = 1 - b_t, A_t = prod_{s<=t} a_s (`alphas_cumprod`), A_{-1} = 1.

1. q(x_t | x_start) = N(sqrt(A_t) x_start, (1 - A_t) I)             DDPM eq. 4
2. x_t = sqrt(A_t) x_start + sqrt(1 - A_t) noise                    DDPM eq. 4
3. q(x_{t-1} | x_t, x_start) has                                    DDPM eq. 6, 7
   mean      b_t sqrt(A_{t-1}) / (1 - A_t) x_start
             + (1 - A_{t-1}) sqrt(a_t) / (1 - A_t) x_t,
   variance  v_t = b_t (1 - A_{t-1}) / (1 - A_t)
4. x_start = x_t / sqrt(A_t) - sqrt(1 / A_t - 1) eps                eq. 2 solved
5. log variance of p(x_{t-1} | x_t)
   = f log b_t + (1 - f) log v_t,  f = (var_values + 1) / 2         Improved DDPM eq. 15
6. The halves o_1, o_2 of the output stand for x_start and eps, by `prediction`;
   alpha = sqrt(A_t), sigma = sqrt(1 - A_t):
   eps        eps = o_1, x_start by eq. 4, var_values = o_2
   v          x_start = alpha x_t - sigma o_1, eps = sigma x_t + alpha o_1,
              var_values = o_2                                      2202.00512, app. D
   x          x_start = o_1, eps by eq. 4, var_values = o_2         2511.13720
   x_and_eps  x_start = sigma^2 o_2 + alpha (x_t - sigma o_1),
              eps = alpha^2 o_1 + sigma (x_t - alpha o_2)           2202.00512, sec. 4

DDPM is arXiv 2006.11239, Improved DDPM 2102.09672. Tables are built in float64 and
stored in float32. Every function computes in float32, whatever the network's dtype,
since 1 / sqrt(A_t) reaches 2e4 at the noisy end. `t` indexes the given tables; jit
clamps an out-of-range `t` silently.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from glide_jax import array_types
from glide_jax.errors import UserError

# The network's output: 2C channels, read by eq. 6.
ModelOutput = Float[array_types.Array, "b h w c2"]
# Applied to pred_x_start before it is clipped, e.g. to pin the known pixels.
DenoisedFn = Callable[[array_types.Image], array_types.Image]
# Any, as jax also fills a pytree's fields with shardings, shapes and placeholders.
TableLeaf = array_types.Table | Any
# What the network's output stands for; x_and_eps has no variance.
PREDICTIONS = ("eps", "x_and_eps", "v", "x")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DiffusionTables:
    """One value per index `t` of a (respaced) chain, float32; a pytree.

    `timesteps` (int32) has the training-chain timestep of each index, the network's
    input. `prediction` is static: one of PREDICTIONS, how its output is read.
    """

    betas: TableLeaf
    alphas_cumprod: TableLeaf
    alphas_cumprod_prev: TableLeaf
    alphas_cumprod_next: TableLeaf
    sqrt_alphas_cumprod: TableLeaf
    sqrt_one_minus_alphas_cumprod: TableLeaf
    log_one_minus_alphas_cumprod: TableLeaf
    sqrt_recip_alphas_cumprod: TableLeaf
    sqrt_recipm1_alphas_cumprod: TableLeaf
    log_betas: TableLeaf
    posterior_variance: TableLeaf
    posterior_log_variance_clipped: TableLeaf
    posterior_mean_coef1: TableLeaf
    posterior_mean_coef2: TableLeaf
    timesteps: array_types.Timesteps | Any
    prediction: str = dataclasses.field(default="eps", metadata={"static": True})

    @property
    def num_timesteps(self) -> int:
        """Length of this chain, e.g. 27 for "fast27"."""
        return self.betas.shape[0]


class Prediction(NamedTuple):
    """What an output stands for; each (b, h, w, c), not clipped."""

    x_start: array_types.Image
    eps: array_types.Image


class PMeanVariance(NamedTuple):
    """p(x_{t-1} | x_t) and its estimate of the clean image; each (b, h, w, c)."""

    mean: array_types.Image
    variance: array_types.Image
    log_variance: array_types.Image
    pred_x_start: array_types.Image


class MeanVariance(NamedTuple):
    """A Gaussian; mean is (b, h, w, c), the other two broadcast against it."""

    mean: array_types.Image
    variance: jax.Array
    log_variance: jax.Array


def float64_tables(betas: np.ndarray) -> dict[str, np.ndarray]:
    """Returns every table of `DiffusionTables` but `timesteps`, float64, (k,).

    In float32, the product of a thousand factors would cause errors of 3e-4 in the
    posterior variance of the cosine schedule.
    """
    betas = np.asarray(betas, dtype=np.float64)
    cumprod = np.cumprod(1 - betas)
    prev = np.append(1.0, cumprod[:-1])
    variance = betas * (1 - prev) / (1 - cumprod)
    # v_0 is 0, and its log -inf: v_1 replaces it (reference). A chain of one step has
    # no v_1 and uses b_0 (ours).
    clipped = np.append(variance[1:2] if len(betas) > 1 else betas, variance[1:])
    return {
        "betas": betas,
        "alphas_cumprod": cumprod,
        "alphas_cumprod_prev": prev,
        "alphas_cumprod_next": np.append(cumprod[1:], 0.0),
        "sqrt_alphas_cumprod": np.sqrt(cumprod),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - cumprod),
        "log_one_minus_alphas_cumprod": np.log(1 - cumprod),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / cumprod),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / cumprod - 1),
        "log_betas": np.log(betas),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(clipped),
        "posterior_mean_coef1": betas * np.sqrt(prev) / (1 - cumprod),
        "posterior_mean_coef2": (1 - prev) * np.sqrt(1 - betas) / (1 - cumprod),
    }


def make_tables(
    betas: np.ndarray,
    timesteps: np.ndarray | None = None,
    *,
    prediction: str = "eps",
) -> DiffusionTables:
    """Returns the tables of the chain with these betas.

    Args:
      betas: float64, (k,), each in (0, 1).
      timesteps: (k,) training-chain timestep of each index; None means 0..k-1.
      prediction: one of PREDICTIONS.

    Raises:
      UserError: the two lengths differ, or an unknown prediction.
    """
    if prediction not in PREDICTIONS:
        raise UserError(
            f"prediction={prediction!r} is not one of {', '.join(PREDICTIONS)}"
        )
    betas = np.asarray(betas, dtype=np.float64)
    timesteps = np.arange(len(betas)) if timesteps is None else np.asarray(timesteps)
    if timesteps.shape != betas.shape:
        raise UserError(
            f"timesteps of shape {timesteps.shape} do not match betas of shape "
            f"{betas.shape}; give one training timestep per beta"
        )
    tables = {
        name: jnp.asarray(table, dtype=jnp.float32)
        for name, table in float64_tables(betas).items()
    }
    return DiffusionTables(
        timesteps=jnp.asarray(timesteps, jnp.int32), prediction=prediction, **tables
    )


def gather(table: array_types.Table, t: array_types.Timesteps) -> jax.Array:
    """Returns table[t], (b, 1, 1, 1), one factor for each image of a batch."""
    return jnp.asarray(table)[t][:, None, None, None]


def split_output(
    model_output: ModelOutput,
) -> tuple[array_types.Image, array_types.Image]:
    """Returns the halves of the output, each (b, h, w, c), float32; see eq. 6."""
    first, second = jnp.split(jnp.asarray(model_output, jnp.float32), 2, axis=-1)
    return first, second


def q_mean_variance(
    tables: DiffusionTables, x_start: array_types.Image, t: array_types.Timesteps
) -> MeanVariance:
    """Returns q(x_t | x_start), eq. 1."""
    return MeanVariance(
        mean=gather(tables.sqrt_alphas_cumprod, t) * x_start,
        variance=1 - gather(tables.alphas_cumprod, t),
        log_variance=gather(tables.log_one_minus_alphas_cumprod, t),
    )


def q_sample(
    tables: DiffusionTables,
    x_start: array_types.Image,
    t: array_types.Timesteps,
    noise: array_types.Image,
) -> array_types.Image:
    """Returns x_t drawn from q(x_t | x_start) with standard normal `noise`, eq. 2."""
    return (
        gather(tables.sqrt_alphas_cumprod, t) * x_start
        + gather(tables.sqrt_one_minus_alphas_cumprod, t) * noise
    )


def q_posterior_mean_variance(
    tables: DiffusionTables,
    x_start: array_types.Image,
    x_t: array_types.Image,
    t: array_types.Timesteps,
) -> MeanVariance:
    """Returns q(x_{t-1} | x_t, x_start), eq. 3; log_variance is clipped at t = 0."""
    return MeanVariance(
        mean=gather(tables.posterior_mean_coef1, t) * x_start
        + gather(tables.posterior_mean_coef2, t) * x_t,
        variance=gather(tables.posterior_variance, t),
        log_variance=gather(tables.posterior_log_variance_clipped, t),
    )


def predict_x_start(
    tables: DiffusionTables,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    pred_eps: array_types.Image,
) -> array_types.Image:
    """Returns the clean image implied by `pred_eps`, eq. 4; not clipped."""
    return (
        gather(tables.sqrt_recip_alphas_cumprod, t) * x_t
        - gather(tables.sqrt_recipm1_alphas_cumprod, t) * pred_eps
    )


def predict_eps(
    tables: DiffusionTables,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    pred_x_start: array_types.Image,
) -> array_types.Image:
    """Returns the noise implied by `pred_x_start`, eq. 4 solved for eps."""
    # Broadcast first: XLA may divide by a broadcast as a product with the reciprocal,
    # and 1 / sqrt(A_t) amplifies that rounding on the way back to an x_start.
    scale = jnp.broadcast_to(gather(tables.sqrt_recipm1_alphas_cumprod, t), x_t.shape)
    return (gather(tables.sqrt_recip_alphas_cumprod, t) * x_t - pred_x_start) / scale


def predict(
    tables: DiffusionTables,
    model_output: ModelOutput,
    x_t: array_types.Image,
    t: array_types.Timesteps,
) -> Prediction:
    """Returns the clean image and the noise that an output stands for, eq. 6."""
    first, second = split_output(model_output)
    if tables.prediction == "eps":
        return Prediction(predict_x_start(tables, x_t, t, first), first)
    alpha = gather(tables.sqrt_alphas_cumprod, t)
    sigma = gather(tables.sqrt_one_minus_alphas_cumprod, t)
    if tables.prediction == "v":
        return Prediction(alpha * x_t - sigma * first, sigma * x_t + alpha * first)
    if tables.prediction == "x":
        return Prediction(first, predict_eps(tables, x_t, t, first))
    return Prediction(
        sigma**2 * second + alpha * (x_t - sigma * first),
        alpha**2 * first + sigma * (x_t - alpha * second),
    )


def estimate_x_start(
    tables: DiffusionTables,
    model_output: ModelOutput,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    *,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
) -> array_types.Image:
    """Returns the clean image of `predict`; arguments as in `p_mean_variance`."""
    pred_x_start = predict(tables, model_output, x_t, t).x_start
    if denoised_fn is not None:
        pred_x_start = denoised_fn(pred_x_start)
    return jnp.clip(pred_x_start, -1, 1) if clip_denoised else pred_x_start


def p_mean_variance(
    tables: DiffusionTables,
    model_output: ModelOutput,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    *,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
) -> PMeanVariance:
    """Returns p(x_{t-1} | x_t) from the output of the network, eq. 3 to 6.

    Args:
      tables: chain that `t` indexes; its prediction is not x_and_eps.
      model_output: output of the network at x_t; var_values are not clipped.
      x_t: noised images, the network's input.
      t: (b,) indices into `tables`.
      clip_denoised: static; clip pred_x_start to [-1, 1].
      denoised_fn: static; applied to pred_x_start before the clip, as in the
        reference.

    Raises:
      ValueError: the network predicts no variance.
    """
    if tables.prediction == "x_and_eps":
        raise ValueError("prediction=x_and_eps has no variance")
    _, var_values = split_output(model_output)
    frac = (var_values + 1) / 2
    log_variance = frac * gather(tables.log_betas, t) + (1 - frac) * gather(
        tables.posterior_log_variance_clipped, t
    )
    pred_x_start = estimate_x_start(
        tables,
        model_output,
        x_t,
        t,
        clip_denoised=clip_denoised,
        denoised_fn=denoised_fn,
    )
    mean = q_posterior_mean_variance(tables, pred_x_start, x_t, t).mean
    return PMeanVariance(mean, jnp.exp(log_variance), log_variance, pred_x_start)
