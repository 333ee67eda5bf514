"""Moment matching: a student of few steps whose pictures have its teacher's moments.

x~ is the clean picture that the student makes of z_t, with t on its grid, and s < t is
drawn down to the next timestep of the grid, or to 0 from the last one. phi is a second
network of the teacher's kind. g(z_s) is the clean picture that a network makes of z_s.

1. z_s ~ q(z_s | z_t, x~), with r = (alpha_t sigma_s / (alpha_s sigma_t))^2:
   mean = (alpha_s / alpha_t) r z_t + alpha_s (1 - r) x~, variance = sigma_s^2 (1 - r)
2. L_phi = w(s) (|x~ - g_phi(z_s)|^2 + |g_teacher(z_s) - g_phi(z_s)|^2)
3. L_student = w(s) <x~, g_phi(z_s) - g_teacher(z_s)>, with a gradient to x~ alone
4. w(s) = min(max(1, alpha_s^2 / sigma_s^2), MAX_WEIGHT)

2406.04103, algorithm 2. phi learns the mean of E[x~ | z_s] and of the teacher's
E[x | z_s], and the student descends along their difference. At rest they are equal at
every z_s. The student draws with fresh noise: from one step of the grid to the next by
eq. 1, which is `single_step.ddim_step` with eta = 1 (algorithm 1).

Ours: both networks are updated in the same step instead of by turns; x is clipped to
[-1, 1] where it is not differentiated, as in sampling; and w has an upper bound,
without which the least noisy z_s outweigh all others.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from glide_jax import array_types
from glide_jax.diffusion import losses, process

MAX_WEIGHT = 5.0  # as in 2303.09556


def posterior_sample(
    tables: process.DiffusionTables,
    x_start: array_types.Image,
    x_t: array_types.Image,
    t: array_types.Timesteps,
    s: array_types.Timesteps,
    noise: array_types.Image,
) -> array_types.Image:
    """Returns z_s of eq. 1.

    Args:
      tables: the chain that `t` and `s` index.
      x_start: clean images.
      x_t: noised images at t.
      t: (b,) indices.
      s: (b,) indices, at most t.
      noise: standard normal draw.
    """
    alpha_t, alpha_s = (process.gather(tables.sqrt_alphas_cumprod, i) for i in (t, s))
    sigma_t, sigma_s = (
        process.gather(tables.sqrt_one_minus_alphas_cumprod, i) for i in (t, s)
    )
    # Not by r / alpha_t: at the noisy end alpha_t is 5e-5.
    from_x_t = (alpha_t / alpha_s) * (sigma_s / sigma_t) ** 2
    rest = 1 - from_x_t * (alpha_t / alpha_s)
    mean = from_x_t * x_t + alpha_s * rest * x_start
    return mean + sigma_s * jnp.sqrt(jnp.maximum(rest, 0)) * noise


def weight(
    tables: process.DiffusionTables, s: array_types.Timesteps
) -> array_types.PerExample:
    """Returns w(s) of eq. 4, (b,)."""
    alpha = jnp.asarray(tables.sqrt_alphas_cumprod)[s]
    sigma = jnp.asarray(tables.sqrt_one_minus_alphas_cumprod)[s]
    return jnp.clip((alpha / sigma) ** 2, 1, MAX_WEIGHT)


def matching_losses(
    x_student: array_types.Image,
    x_auxiliary: array_types.Image,
    x_teacher: array_types.Image,
) -> dict[str, array_types.PerExample]:
    """Returns the terms of eq. 2 and 3 without w, each (b,), as means over pixels.

    Args:
      x_student: x~, not clipped.
      x_auxiliary: g_phi(z_s), not clipped.
      x_teacher: g_teacher(z_s).

    Returns:
      "auxiliary_mse" and "moment_mse", the two terms of eq. 2, and "student", whose
      gradient is that of eq. 3 and whose value is 0: eq. 3 itself measures nothing.
    """
    held = jax.lax.stop_gradient
    x_teacher = held(jnp.clip(x_teacher, -1, 1))
    direction = held(jnp.clip(x_auxiliary, -1, 1)) - x_teacher
    push = (x_student - held(x_student)) * direction
    return {
        "auxiliary_mse": losses.mse(held(jnp.clip(x_student, -1, 1)), x_auxiliary),
        "moment_mse": losses.mse(x_teacher, x_auxiliary),
        "student": jnp.mean(push, axis=(1, 2, 3)),
    }
