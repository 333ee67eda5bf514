"""Targets of a student that samples in fewer steps than its teacher.

alpha, sigma, x_t at the student's timestep t; primes mark the teacher's next timesteps.

1. Folded guidance: x_target = x_start of eps_uncond + s (eps_cond - eps_uncond), for a
   student that reads s                                             2210.03142, sec. 3.1
2. Halved steps: the teacher's DDIM steps, eta = 0, lead from t over t' to t''; one step
   of the student with x_target leads there as well:
   x_target = (x_t'' - r x_t) / (alpha'' - r alpha), r = sigma'' / sigma
                                                                    2202.00512, eq. 5
   At the student's last step t'' is the clean end, and x_target = x_t''.

The teacher's x_start is clipped to [-1, 1], as in sampling. The loss of both is
`losses.truncated_snr`.

The x_start of a teacher that predicts eps has the error of eps times sigma / alpha, 2e4
at the noisy end. Where that factor exceeds NOISY, the clean picture takes its place:
the mean of the clean pictures of an x_t is the best x_start (ours).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from glide_jax import array_types
from glide_jax.diffusion import guidance, process, sampling_loop, single_step

NOISY = 10.0


def reliable_target(
    tables: process.DiffusionTables,
    x_target: array_types.Image,
    x_start: array_types.Image,
    t: array_types.Timesteps,
) -> array_types.Image:
    """Returns x_target, or x_start where the teacher's eps does not determine it.

    Args:
      tables: the teacher's chain, which `t` indexes.
      x_target: the teacher's estimate.
      x_start: the clean picture.
      t: (b,) indices into `tables`.
    """
    if tables.prediction != "eps":
        return x_target
    factor = process.gather(tables.sqrt_recipm1_alphas_cumprod, t)
    return jnp.where(factor > NOISY, x_start, x_target)


def folded_target(
    tables: process.DiffusionTables,
    cond_output: process.ModelOutput,
    uncond_output: process.ModelOutput,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    scale: array_types.PerExample,
) -> array_types.Image:
    """Returns x_target of eq. 1.

    Args:
      tables: the teacher's chain, which `t` indexes.
      cond_output: the teacher's output at x_t with the caption.
      uncond_output: its output with the empty caption.
      x_t: noised images.
      t: (b,) indices into `tables`.
      scale: guidance scale of each image; 1 is off.
    """
    guided = guidance.classifier_free(
        cond_output,
        uncond_output,
        jnp.asarray(scale)[:, None, None, None],
        prediction=tables.prediction,
    )
    return process.estimate_x_start(tables, guided, x_t, t)


def halved_target(
    denoise: sampling_loop.Denoise,
    tables: process.DiffusionTables,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    x_start: array_types.Image,
) -> array_types.Image:
    """Returns x_target of eq. 2; the teacher is evaluated twice.

    Args:
      denoise: the teacher, (x_t, timesteps) -> model_output.
      tables: the teacher's chain, of twice the student's steps.
      x_t: noised images at the student's timestep.
      t: (b,) indices into the student's chain of every second timestep.
      x_start: the clean pictures.
    """
    zeros = jnp.zeros_like(x_t)

    def step(image, index):
        output = denoise(image, tables.timesteps[index])
        stepped = single_step.ddim_step(
            tables,
            output,
            image,
            index,
            zeros,
            denoised_fn=lambda x: reliable_target(tables, x, x_start, index),
        )
        return stepped.x_prev, None

    # A loop, so that the teacher is compiled once.
    image, _ = jax.lax.scan(step, jnp.asarray(x_t), jnp.stack([2 * t + 1, 2 * t]))
    begin = process.gather(tables.alphas_cumprod, 2 * t + 1)
    end = process.gather(tables.alphas_cumprod_prev, 2 * t)
    ratio = jnp.sqrt((1 - end) / (1 - begin))
    return (image - ratio * x_t) / (jnp.sqrt(end) - ratio * jnp.sqrt(begin))
