"""Adds the four input channels of inpainting to a trained model.

GLIDE fine-tunes its inpainting models from the others. The stem convolution gets input
channels for the known pixels and their mask. Their weights start at zero, so the
extended model initially computes the same outputs for any image and mask.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from glide_jax import array_types
from glide_jax.config.defaults import Text2ImConfig
from glide_jax.errors import UserError

STEM = ("unet", "stem", "kernel")
_IMAGE_CHANNELS = 3  # x_t: first in every model
_INPAINT_CHANNELS = 4  # known pixels and their mask: between x_t and low_res


def extend(
    params: array_types.Params, from_config: Text2ImConfig, to_config: Text2ImConfig
) -> tuple[array_types.Params, list[str]]:
    """Extends parameters from one configuration to another.

    An upsampler's low_res weights move from inputs 3:6 to 7:10. The input tree is not
    modified.

    Returns:
      The parameters of `to_config`, and the paths of the extended tensors: none if the
      configurations agree on `inpaint`.

    Raises:
      UserError: the configurations differ in a field that changes parameters, other
        than `inpaint`.
    """
    check(from_config, to_config)
    if from_config.inpaint == to_config.inpaint:
        return params, []
    kernel = jnp.asarray(params["unet"]["stem"]["kernel"])
    new_shape = (*kernel.shape[:2], _INPAINT_CHANNELS, kernel.shape[3])
    parts = (
        kernel[:, :, :_IMAGE_CHANNELS],
        jnp.zeros(new_shape, kernel.dtype),
        kernel[:, :, _IMAGE_CHANNELS:],
    )
    stem = {**params["unet"]["stem"], "kernel": jnp.concatenate(parts, axis=2)}
    extended = {**params, "unet": {**params["unet"], "stem": stem}}
    return extended, ["/".join(STEM)]


def check(from_config: Text2ImConfig, to_config: Text2ImConfig) -> None:
    """Raises UserError unless `from_config` can be extended to `to_config`."""
    if from_config.inpaint and not to_config.inpaint:
        raise UserError(
            "a model with inpaint=True cannot continue without inpaint; set "
            "model.inpaint=True, or start from a model without it"
        )
    free = ("inpaint", "dropout_prob", "compute_dtype")
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
