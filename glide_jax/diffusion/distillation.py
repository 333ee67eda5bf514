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
"""

from __future__ import annotations

import jax.numpy as jnp

from glide_jax import array_types
from glide_jax.diffusion import guidance, process, sampling_loop, single_step


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
) -> array_types.Image:
    """Returns x_target of eq. 2; the teacher is evaluated twice.

    Args:
      denoise: the teacher, (x_t, timesteps) -> model_output.
      tables: the teacher's chain, of twice the student's steps.
      x_t: noised images at the student's timestep.
      t: (b,) indices into the student's chain of every second timestep.
    """
    image, zeros = jnp.asarray(x_t), jnp.zeros_like(x_t)
    for index in (2 * t + 1, 2 * t):
        output = denoise(image, tables.timesteps[index])
        image = single_step.ddim_step(tables, output, image, index, zeros).x_prev
    begin = process.gather(tables.alphas_cumprod, 2 * t + 1)
    end = process.gather(tables.alphas_cumprod_prev, 2 * t)
    ratio = jnp.sqrt((1 - end) / (1 - begin))
    return (image - ratio * x_t) / (jnp.sqrt(end) - ratio * jnp.sqrt(begin))
