"""Known pixels of an inpainting within a denoising step.

1. pred_x_start <- (1 - mask) pred_x_start + mask image, before it is clipped (GLIDE's
   released samplers, in both stages).
2. x_{t-1} <- (1 - mask) x_{t-1} + mask q(x_{t-1} | image), after each step, x_{-1}
   being the image itself (2112.10741, appendix E). It asks nothing of the network, so
   one that was never taught to inpaint can; what it fills fits its surroundings less.

A mask of 1 is a known pixel, 0 one to fill; between them the two are mixed.
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
    """pred_x_start with its known pixels pinned to the image, eq. 1.

    Bind the last two arguments and pass the rest as a step's `denoised_fn`.
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

    Bind all but `x_prev` and `t` and pass the rest as the loop's `after_step`.

    Args:
      tables: chain that `t` indexes.
      x_prev: the result of the step from index t.
      t: (b,) index of that step; at 0 the image itself is used.
      inpaint_image: the known pixels, in [-1, 1].
      inpaint_mask: in [0, 1], 1 = known.
      noise: standard normal draw of this step, unused at t = 0. Where the
          mask is 0 or 1 it may be the step's own, which shows at other pixels.
    """
    prev = process.gather(tables.alphas_cumprod_prev, t)
    known = jnp.sqrt(prev) * inpaint_image + jnp.sqrt(1 - prev) * noise
    return project(x_prev, known, inpaint_mask)


def feather(mask: Mask, radius_px: int) -> Mask:
    """The mask with a soft edge: known pixels count less, the nearer to an unknown one.

    A known pixel at chessboard distance d from the nearest unknown one becomes
    min(1, d / (radius_px + 1)): the mean of the mask shrunk by 0 to radius_px pixels.
    So what is to fill stays wholly to fill, nothing of the old picture shines through
    it, and beyond radius_px known pixels stay exactly 1. The picture's border is no
    edge. A radius of 0 (static, >= 0) changes nothing.
    """
    mask = shrunk = jnp.asarray(mask)
    total = mask
    for _ in range(radius_px):
        shrunk = _shrink(shrunk)
        total = total + shrunk
    return total / (radius_px + 1)


def _shrink(mask: jax.Array) -> jax.Array:
    """The least of each pixel's 3 x 3 neighbourhood."""
    return jax.lax.reduce_window(
        mask, jnp.inf, jax.lax.min, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"
    )
