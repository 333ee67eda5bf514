"""Guidance of a denoising step towards the caption.

1. Classifier-free: eps = eps_uncond + s (eps_cond - eps_uncond)     GLIDE eq. 7
   (s = 1 is off; the paper of the method, 2207.12598, writes w = s - 1).
2. Mean shift: mean + variance * gradient                            GLIDE eq. 4
3. Score shift: eps - sqrt(1 - A_t) gradient                         ADM, algorithm 2
4. Rescaled: eps <- share eps std(eps_cond) / std(eps) + (1 - share) eps
                                                       2305.08891, eq. 15 and 16
5. Several captions: sum_k w_k model_output_k, sum_k w_k = 1         2206.01714

GLIDE is arXiv 2112.10741, ADM 2105.05233. The gradient of 2 and 3 is that of a scalar
per image with respect to x_t: the similarity of a noised CLIP, or the log-probability
of a noised classifier. 1 changes model_output, 2 and 3 the step computed from it, so
they may be combined. 5 is applied before 1, and 4 after it.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from glide_jax import array_types
from glide_jax.diffusion import process

# On the training chain.
Timestep = array_types.Scalar | Int[array_types.Array, ""]
# One for all images, or one per image.
Scale = array_types.Scalar | Float[array_types.Array, "b 1 1 1"]
PerExampleBool = Bool[array_types.Array, "b"]
ModelOutputs = Float[array_types.Array, "k b h w c2"]
BlendWeights = Float[array_types.Array, "k"] | Float[array_types.Array, "k b"]


def classifier_free(
    cond_output: process.ModelOutput,
    uncond_output: process.ModelOutput,
    scale: Scale,
    *,
    prediction: str = "eps",
) -> process.ModelOutput:
    """Returns model_output by eq. 1, float32.

    Eq. 1 holds for x_start and v as for eps: each is linear in the others at given x_t.
    The variance channels are the conditional ones, as in the released samplers. `scale`
    may be traced; `prediction` is static, one of process.PREDICTIONS.
    """
    cond, cond_second = process.split_output(cond_output)
    uncond, uncond_second = process.split_output(uncond_output)
    second = cond_second
    if prediction == "x_and_eps":
        second = uncond_second + scale * (cond_second - uncond_second)
    return jnp.concatenate([uncond + scale * (cond - uncond), second], axis=-1)


def is_active(
    timesteps: array_types.Timesteps, first: Timestep, last: Timestep
) -> PerExampleBool:
    """Returns where first <= timesteps <= last, the interval of guidance.

    Guidance is harmful at the noisiest timesteps and without effect at the cleanest
    (2404.07724, where the interval is one of noise levels). All three are timesteps of
    the training chain; `first` and `last` may be traced.
    """
    return (jnp.asarray(timesteps) >= first) & (jnp.asarray(timesteps) <= last)


def rescale(
    guided_output: process.ModelOutput,
    cond_output: process.ModelOutput,
    share: array_types.Scalar,
) -> process.ModelOutput:
    """Returns guided_output with the eps (or v) channels of eq. 4, float32.

    A scale above 1 increases the norm of eps, and so the contrast of the picture. The
    paper rescales the guided output to the standard deviation of the conditional one,
    over all pixels and channels of an image. Its network predicts v, GLIDE's eps; both
    are finite at every noise level, unlike pred_x_start. It scales the first half of
    the output, so it is not for prediction=x_and_eps. The paper recommends a share of
    0.7; 0 is off, and `share` may be traced.
    """
    eps, var_values = process.split_output(guided_output)
    cond_eps, _ = process.split_output(cond_output)
    std, cond_std = _std(eps), _std(cond_eps)
    # A network at its zero initialisation returns eps = 0.
    ratio = jnp.where(std > 0, cond_std / jnp.where(std > 0, std, 1), 1)
    return jnp.concatenate([eps * (1 + share * (ratio - 1)), var_values], axis=-1)


def blend(outputs: ModelOutputs, weights: BlendWeights) -> process.ModelOutput:
    """Returns the weighted mean of the model_outputs of k captions, eq. 5, float32.

    Guidance uses it as the conditional output.

    Args:
      outputs: (k, b, h, w, 2c), all at the same x_t.
      weights: (k,), or (k, b) for weights per image; normalised here. May be traced;
        those of an image must not sum to 0.
    """
    weights = jnp.asarray(weights, jnp.float32)
    weights = weights / jnp.sum(weights, axis=0)
    weights = weights.reshape(weights.shape + (1,) * (5 - weights.ndim))
    return jnp.sum(weights * jnp.asarray(outputs, jnp.float32), axis=0)


def shift_mean(
    mean: array_types.Image, variance: array_types.Image, gradient: array_types.Image
) -> array_types.Image:
    """Returns the mean of p(x_{t-1} | x_t) shifted along the gradient, eq. 2."""
    return mean + variance * gradient


def shift_score(
    tables: process.DiffusionTables,
    pred_x_start: array_types.Image,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    gradient: array_types.Image,
) -> array_types.Image:
    """Returns the pred_x_start implied by the eps of eq. 3.

    It is not clipped again, as in the reference: a strong gradient can move it far
    outside [-1, 1].
    """
    eps = process.predict_eps(tables, x_t, t, pred_x_start)
    eps = eps - jnp.sqrt(1 - process.gather(tables.alphas_cumprod, t)) * gradient
    return process.predict_x_start(tables, x_t, t, eps)


def estimate(
    tables: process.DiffusionTables,
    model_output: process.ModelOutput,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    gradient: array_types.Image | None,
    clip_denoised: bool,
    denoised_fn: process.DenoisedFn | None,
) -> tuple[array_types.Image, array_types.Image]:
    """Returns pred_x_start, shifted by eq. 3 if there is a gradient, and its eps.

    eps is computed from the clipped x_start, so that both together give x_t.
    """
    pred_x_start = process.estimate_x_start(
        tables,
        model_output,
        x_t,
        t,
        clip_denoised=clip_denoised,
        denoised_fn=denoised_fn,
    )
    if gradient is not None:
        pred_x_start = shift_score(tables, pred_x_start, x_t, t, gradient)
    return pred_x_start, process.predict_eps(tables, x_t, t, pred_x_start)


def similarity_gradient(
    similarity_fn: Callable[[array_types.Image], array_types.PerExample],
    x_t: array_types.Image,
    scale: Scale,
) -> array_types.Image:
    """Returns `scale` times the gradient of the similarity with respect to x_t.

    Args:
      similarity_fn: images (b, h, w, c) -> (b,), each entry a function of its own
        image only, so that the gradient of the sum is that of each image.
      x_t: noised images, not their clean estimates.
      scale: gradient scale; may be traced.
    """
    gradient = jax.grad(lambda images: jnp.sum(similarity_fn(images)))
    return scale * gradient(jnp.asarray(x_t))


def _std(images: array_types.Image) -> jax.Array:
    """Returns the standard deviation of each image, (b, 1, 1, 1)."""
    return jnp.std(images, axis=(1, 2, 3), keepdims=True)
