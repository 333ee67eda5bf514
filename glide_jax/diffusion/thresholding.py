"""Dynamic thresholding of pred_x_start to [-1, 1].

1. x_start <- clip(x_start / s, -1, 1),  s = max(1, the quantile of |x_start|)

Dynamic thresholding (Imagen, 2205.11487, section 2.3). The plain clip saturates the
pixels that strong guidance moves out of range; this rescales all of them.
"""

from __future__ import annotations

import jax.numpy as jnp

from glide_jax import array_types


def dynamic_threshold(
    pred_x_start: array_types.Image, quantile: array_types.Scalar
) -> array_types.Image:
    """Returns pred_x_start in [-1, 1], eq. 1, each image by its own s.

    It is used in the `denoised_fn` of a step, before pixels are pinned, since known
    pixels must not be divided by s:

        denoised_fn = lambda x: project(dynamic_threshold(x, 0.995))

    Args:
      pred_x_start: (b, h, w, c), not clipped.
      quantile: in (0, 1], over all pixels and channels of an image; may be traced. 1
        is the largest |x_start|; Imagen uses 0.995.
    """
    size = jnp.abs(pred_x_start).reshape(pred_x_start.shape[0], -1)
    s = jnp.maximum(jnp.quantile(size, jnp.float32(quantile), axis=1), 1)
    # Clipped after the division, since s / s may round to more than 1.
    return jnp.clip(pred_x_start / s[:, None, None, None], -1, 1)
