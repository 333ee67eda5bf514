"""Known pixels of an inpainting in a denoising step.

1. pred_x_start <- (1 - mask) pred_x_start + mask image, before it is clipped (GLIDE's
   released samplers, in both stages).
2. x_{t-1} <- (1 - mask) x_{t-1} + mask q(x_{t-1} | image), after each step, where
   x_{-1} is the image (2112.10741, appendix E). It works with a network that was not
   trained to inpaint; the filled pixels fit their surroundings less.

A mask is 1 for a known pixel and 0 for a pixel to fill; values between mix the two.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from glide_jax import array_types
from glide_jax.diffusion import process

Mask = Float[array_types.Array, "b h w 1"]


def project(
    pred_x_start: array_types.Image,
    inpaint_image: array_types.Image,
    inpaint_mask: Mask,
) -> array_types.Image:
    """Returns pred_x_start with its known pixels pinned to the image, eq. 1.

    With the last two arguments bound it is the `denoised_fn` of a step.
    """
    return pred_x_start * (1 - inpaint_mask) + inpaint_image * inpaint_mask


def renoise_known(
    tables: process.DiffusionTables,
    x_prev: array_types.Image,
    t: array_types.Timesteps,
    inpaint_image: array_types.Image,
    inpaint_mask: Mask,
    noise: array_types.Image,
) -> array_types.Image:
    """Replaces the known pixels of x_prev by noised pixels of the image, eq. 2.

    With all arguments but `x_prev` and `t` bound it is the `after_step` of the loop.

    Args:
      tables: chain that `t` indexes.
      x_prev: the result of the step from index t.
      t: (b,) index of that step; at 0 the image is used without noise.
      inpaint_image: the known pixels, in [-1, 1].
      inpaint_mask: in [0, 1], 1 = known.
      noise: standard normal draw, independent of the step's where the mask is soft;
        unused at t = 0.
    """
    prev = process.gather(tables.alphas_cumprod_prev, t)
    known = jnp.sqrt(prev) * inpaint_image + jnp.sqrt(1 - prev) * noise
    return project(x_prev, known, inpaint_mask)


def feather(mask: Mask, radius_px: int) -> Mask:
    """Returns the mask with a soft edge within its known pixels.

    A known pixel at chessboard distance d from the nearest unknown one becomes
    min(1, d / (radius_px + 1)), the mean of the mask shrunk by 0 to radius_px pixels.
    Pixels to fill stay 0, and the picture's border is not an edge. radius_px is static;
    0 changes nothing.
    """
    mask = shrunk = jnp.asarray(mask)
    total = mask
    for _ in range(radius_px):
        shrunk = _shrink(shrunk)
        total = total + shrunk
    return total / (radius_px + 1)


def _shrink(mask: jax.Array) -> jax.Array:
    """Returns the minimum of each pixel's 3 x 3 neighbourhood."""
    return jax.lax.reduce_window(
        mask, jnp.inf, jax.lax.min, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"
    )
