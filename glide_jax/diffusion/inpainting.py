"""How do the known pixels of an inpainting enter a denoising step?

1. pred_x_start <- (1 - mask) pred_x_start + mask image, before it is clipped (GLIDE's
   released samplers, in both stages). A mask of 1 is a known pixel, 0 one to fill.
"""

from __future__ import annotations

from jaxtyping import Float

from glide_jax import shapes

Mask = Float[shapes.Array, "b h w 1"]


def project(
    pred_x_start: shapes.Image, inpaint_image: shapes.Image, inpaint_mask: Mask
) -> shapes.Image:
    """pred_x_start with its known pixels pinned to the image, eq. 1.

    Bind the last two arguments and pass the rest as a step's `denoised_fn`.
    """
    return pred_x_start * (1 - inpaint_mask) + inpaint_image * inpaint_mask
