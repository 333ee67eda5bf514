"""How do caption, noised image and picture conditions meet in one model?

Base, upsampler and their inpainting forms are one model whose U-Net reads more or fewer
input channels, in this order: x_t, image * mask, mask, low_res. low_res comes last,
because the released inpainting upsampler was trained so.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from glide_jax import array_types
from glide_jax.config.defaults import Text2ImConfig
from glide_jax.errors import UserError
from glide_jax.models import attention as attention_lib
from glide_jax.models import text_encoder, unet


class TextConditioning(NamedTuple):
    """A caption as the denoiser takes it: constant over a sampling loop."""

    pooled: array_types.Features  # (B, 4 * num_channels)
    keys_values: tuple[jax.Array, ...]  # (B, L, 2 * channels) per attention block


class Text2Im(nn.Module):
    """The text transformer and the U-Net, with one method per stage of use."""

    config: Text2ImConfig
    attention_fn: attention_lib.AttentionFn
    constrain: text_encoder.ConstrainFn
    remat: tuple[str, ...]  # policy of all levels, or of each from the finest
    remat_text: str

    def setup(self):
        dtype = jnp.dtype(self.config.compute_dtype)
        self.text = text_encoder.TextEncoder(
            self.config, self.constrain, self.remat_text, dtype
        )
        self.unet = unet.UNet(
            self.config, self.attention_fn, self.constrain, self.remat, dtype
        )

    def encode_text(self, tokens, text_mask):
        """Caption -> TextFeatures."""
        check_tokens(tokens, self.config.text_context)
        return self.text(tokens, text_mask)

    def text_keys_values(self, sequence):
        """Caption sequence -> keys and values of every attention block."""
        return self.unet.text_keys_values(sequence)

    def denoise(self, x_t, timesteps, text, pictures, dropout_keys):
        """x_t and its conditions -> model_output (B, H, W, 6), float32."""
        x = assemble_input(self.config, x_t, pictures)
        return self.unet(x, timesteps, text.pooled, text.keys_values, dropout_keys)

    def __call__(self, tokens, text_mask, x_t, timesteps):
        """Every parameter in use once: for initialisation."""
        features = self.encode_text(tokens, text_mask)
        keys_values = self.text_keys_values(features.sequence)
        text = TextConditioning(features.pooled, keys_values)
        return self.denoise(x_t, timesteps, text, Pictures(None, None, None), None)


class Pictures(NamedTuple):
    """Picture conditions; None: zeros where the model reads them."""

    low_res: jax.Array | None
    inpaint_image: jax.Array | None
    inpaint_mask: jax.Array | None


def check_tokens(tokens: array_types.Tokens, text_context: int) -> None:
    """Raises UserError where the captions are not text_context tokens long."""
    if tokens.shape[1] != text_context:
        raise UserError(
            f"captions of {tokens.shape[1]} tokens given to a model of "
            f"text_context={text_context}; pad or truncate them to that length"
        )


def assemble_input(
    config: Text2ImConfig, x_t: array_types.Image, pictures: Pictures
) -> jax.Array:
    """The U-Net's input channels: x_t, image * mask, mask, upsampled low_res.

    Raises:
      UserError: for a condition that the model does not read, or one of wrong side.
    """
    _check_pictures(config, x_t, pictures)
    x_t = jnp.asarray(x_t)
    parts = [x_t]
    if config.inpaint:
        image, mask = pictures.inpaint_image, pictures.inpaint_mask
        mask = jnp.zeros_like(x_t[..., :1]) if mask is None else mask
        image = jnp.zeros_like(x_t) if image is None else image
        parts += [image * mask, mask]
    if config.low_res_px:
        if pictures.low_res is None:
            parts.append(jnp.zeros_like(x_t))
        else:
            parts.append(jax.image.resize(pictures.low_res, x_t.shape, "bilinear"))
    return jnp.concatenate(parts, axis=-1) if len(parts) > 1 else x_t


def _check_pictures(config, x_t, pictures):
    side = config.image_px
    if x_t.shape[1:3] != (side, side):
        raise UserError(f"x_t is {x_t.shape[1:3]}, but the model's image_px is {side}")
    if pictures.low_res is not None:
        if not config.low_res_px:
            raise UserError("low_res given to a model that is not an upsampler")
        if pictures.low_res.shape[1:3] != (config.low_res_px, config.low_res_px):
            raise UserError(
                f"low_res is {pictures.low_res.shape[1:3]}, but the model's "
                f"low_res_px is {config.low_res_px}; resize it by area to that"
            )
    if not config.inpaint and (
        pictures.inpaint_image is not None or pictures.inpaint_mask is not None
    ):
        raise UserError(
            "inpaint_image or inpaint_mask given to a model without inpaint"
        )
