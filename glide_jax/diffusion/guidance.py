"""How is a denoising step steered towards the caption?

1. Classifier-free: eps = eps_uncond + s (eps_cond - eps_uncond)     GLIDE eq. 7
   (s = 1 is off; the paper of the method, 2207.12598, writes w = s - 1).
2. Mean shift: mean + variance * gradient                            GLIDE eq. 4
3. Score shift: eps - sqrt(1 - A_t) gradient                         ADM, algorithm 2

GLIDE is arXiv 2112.10741, ADM 2105.05233. The gradient of 2 and 3 is that of any
scalar per image with respect to x_t: a noised CLIP's similarity, or a noised
classifier's log-probability. 1 acts on model_output and 2 or 3 on what follows from
it, so they may be used together.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from glide_jax import shapes
from glide_jax.diffusion import process


def classifier_free(
    cond_output: process.ModelOutput,
    uncond_output: process.ModelOutput,
    scale: shapes.Scalar,
) -> process.ModelOutput:
    """model_output with the eps channels of eq. 1, float32.

    The variance channels are the conditional ones, as the released samplers keep the
    first half of the [cond | uncond] batch. `scale` may be traced.
    """
    cond_eps, cond_var_values = process.split_output(cond_output)
    uncond_eps, _ = process.split_output(uncond_output)
    eps = uncond_eps + scale * (cond_eps - uncond_eps)
    return jnp.concatenate([eps, cond_var_values], axis=-1)


def shift_mean(
    mean: shapes.Image, variance: shapes.Image, gradient: shapes.Image
) -> shapes.Image:
    """Mean of p(x_{t-1} | x_t) moved along the gradient, eq. 2."""
    return mean + variance * gradient


def shift_score(
    tables: process.DiffusionTables,
    pred_x_start: shapes.Image,
    x_t: shapes.Image,
    t: shapes.Timesteps,
    gradient: shapes.Image,
) -> shapes.Image:
    """pred_x_start after eq. 3 moved the eps that it implies.

    It is not clipped again (the reference does not): with a strong gradient it can lie
    far outside [-1, 1].
    """
    eps = process.predict_eps(tables, x_t, t, pred_x_start)
    eps = eps - jnp.sqrt(1 - process.gather(tables.alphas_cumprod, t)) * gradient
    return process.predict_x_start(tables, x_t, t, eps)


def similarity_gradient(
    similarity_fn: Callable[[shapes.Image], shapes.PerExample],
    x_t: shapes.Image,
    scale: shapes.Scalar,
) -> shapes.Image:
    """scale times the gradient of the summed similarity with respect to x_t.

    Args:
        similarity_fn: images (b, h, w, c) -> (b,), each entry a function of its own
            image only, so that the sum gives every image its own gradient.
        x_t: noised images, not their clean estimates.
        scale: gradient scale; may be traced.
    """
    gradient = jax.grad(lambda images: jnp.sum(similarity_fn(images)))
    return scale * gradient(jnp.asarray(x_t))
