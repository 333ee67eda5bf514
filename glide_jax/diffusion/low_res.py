"""Consistency of an enlarged picture with its low-resolution picture.

1. pred_x_start <- pred_x_start + repeat(low_res - means(pred_x_start)), where means are
   of f x f pixels and repeat writes each value f x f times: the null-space projection
   of DDNM (2212.00490, eq. 17) for the area downsampling that made low_res.

The network then determines only what low_res does not. It is not part of GLIDE, and off
by default.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from glide_jax import array_types

SmallImage = Float[array_types.Array, "b h_small w_small c"]


def match_low_res(
    pred_x_start: array_types.Image, low_res: SmallImage
) -> array_types.Image:
    """Returns pred_x_start, (b, h, w, c), with the area means of low_res, eq. 1.

    Its sides are multiples of low_res's. A clip afterwards can change the means.
    """
    b, h, w, c = low_res.shape
    rows, columns = pred_x_start.shape[1] // h, pred_x_start.shape[2] // w
    blocks = pred_x_start.reshape(b, h, rows, w, columns, c)
    missing = low_res - jnp.mean(blocks, axis=(2, 4))
    return (blocks + missing[:, :, None, :, None]).reshape(pred_x_start.shape)
