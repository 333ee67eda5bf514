"""Adds inputs and outputs to a trained model.

1. Inpainting: the stem convolution gets input channels for the known pixels and their
   mask (GLIDE fine-tunes its inpainting models from the others).
2. A folded guidance scale: the layer that embeds it.
3. prediction=x_and_eps in place of eps: the last layer's variance channels become those
   of x_start (2202.00512).

New weights are zeros. So 1 and 2 change no output at first, and neither does 3 change
the predicted eps. The first x_start of 3 is zero, with residual_low_res the small
picture.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from glide_jax import array_types
from glide_jax.config.defaults import Text2ImConfig
from glide_jax.errors import UserError

STEM = ("unet", "stem", "kernel")
GUIDANCE = ("unet", "guidance_in")
OUTPUT = ("unet", "conv_out")
_IMAGE_CHANNELS = 3  # x_t: first in every model
_INPAINT_CHANNELS = 4  # known pixels and their mask: between x_t and low_res


def extend(
    params: array_types.Params, from_config: Text2ImConfig, to_config: Text2ImConfig
) -> tuple[array_types.Params, list[str]]:
    """Extends parameters from one configuration to another.

    An upsampler's low_res weights move from inputs 3:6 to 7:10. The input tree is not
    modified.

    Returns:
      The parameters of `to_config`, and the paths of the extended tensors.

    Raises:
      UserError: the configurations differ in a field that changes parameters, other
        than `inpaint` and `guidance_range`.
    """
    check(from_config, to_config)
    extended = []
    unet = dict(params["unet"])
    if from_config.inpaint != to_config.inpaint:
        unet["stem"] = _with_known_pixels(unet["stem"], to_config.patch_px**2)
        extended.append("/".join(STEM))
    if to_config.guidance_range and not from_config.guidance_range:
        width = to_config.num_channels
        unet["guidance_in"] = {
            "kernel": np.zeros((width, 4 * width), np.float32),
            "bias": np.zeros((4 * width,), np.float32),
        }
        extended.append("/".join(GUIDANCE))
    return ({**params, "unet": unet} if extended else params), extended


def to_x_and_eps(params: array_types.Params) -> tuple[array_types.Params, list[str]]:
    """Returns parameters whose second half of the output, now x_start, is zero.

    The second result is the path of the changed layer, as in `extend`.
    """
    unet = dict(params["unet"])
    layer = {}
    for name, array in unet["conv_out"].items():
        array = np.array(array)
        array[..., array.shape[-1] // 2 :] = 0
        layer[name] = array
    return {**params, "unet": {**unet, "conv_out": layer}}, ["/".join(OUTPUT)]


def _with_known_pixels(stem: array_types.Params, area: int) -> array_types.Params:
    """Returns the stem with zero weights for the inputs of inpainting.

    Each channel of the input is `area` channels of the stem, the pixels of a patch.
    """
    kernel = jnp.asarray(stem["kernel"])
    new_shape = (*kernel.shape[:2], area * _INPAINT_CHANNELS, kernel.shape[3])
    parts = (
        kernel[:, :, : area * _IMAGE_CHANNELS],
        jnp.zeros(new_shape, kernel.dtype),
        kernel[:, :, area * _IMAGE_CHANNELS :],
    )
    return {**stem, "kernel": jnp.concatenate(parts, axis=2)}


def check(from_config: Text2ImConfig, to_config: Text2ImConfig) -> None:
    """Raises UserError unless `from_config` can be extended to `to_config`."""
    if from_config.inpaint and not to_config.inpaint:
        raise UserError(
            "a model with inpaint=True cannot continue without inpaint; set "
            "model.inpaint=True, or start from a model without it"
        )
    before, after = from_config.guidance_range, to_config.guidance_range
    if before and before != after:
        raise UserError(
            f"the model to start from reads guidance scales of {before}, and this one "
            f"of {after}; set model.guidance_range={before}"
        )
    free = (
        *("inpaint", "guidance_range", "residual_low_res"),
        *("dropout_prob", "compute_dtype"),
    )
    differing = [
        f"{field.name} {before!r} -> {after!r}"
        for field in dataclasses.fields(Text2ImConfig)
        if field.name not in free
        and (before := getattr(from_config, field.name))
        != (after := getattr(to_config, field.name))
    ]
    if differing:
        raise UserError(
            f"the model to start from differs in {', '.join(differing)}; only inpaint "
            "may change: set these fields of model as in that model"
        )
