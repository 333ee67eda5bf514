"""The text-to-image model: text transformer and U-Net.

Base, upsampler and their inpainting forms are one model; its U-Net reads more or fewer
input channels, in this order: x_t, image * mask, mask, low_res. low_res is last, as in
the released inpainting upsampler.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from glide_jax import array_types
from glide_jax.config import choices
from glide_jax.config.defaults import Text2ImConfig
from glide_jax.errors import UserError
from glide_jax.models import attention as attention_lib
from glide_jax.models import text_encoder, unet


class TextConditioning(NamedTuple):
    """An encoded caption, the denoiser's input; constant over a sampling loop.

    Attributes:
      pooled: (B, 4 * num_channels).
      keys_values: one (B, L, 2 * channels) array per attention block.
    """

    pooled: array_types.Features
    keys_values: tuple[jax.Array, ...]


class PictureConditions(NamedTuple):
    """Images that condition the denoiser; None is read as zeros.

    Attributes:
      low_res: (B, low_res_px, low_res_px, 3) in [-1, 1], of an upsampler.
      inpaint_image: (B, image_px, image_px, 3) in [-1, 1], of an inpainting model.
      inpaint_mask: (B, image_px, image_px, 1), 1 where the image is known.
    """

    low_res: array_types.Image | None = None
    inpaint_image: array_types.Image | None = None
    inpaint_mask: array_types.Image | None = None


class Text2Im(nn.Module):
    """The text transformer and the U-Net, with one method per stage of use.

    Attributes:
      config: sizes and conditions.
      attention_fn: the program that computes attention.
      constrain: hook on activations, e.g. a sharding constraint.
      remat: rematerialisation policy of all levels, or of each from the finest.
      remat_text: rematerialisation policy of the text transformer's layers.
      prediction: what the output stands for, one of process.PREDICTIONS. Only
        residual_low_res needs it.
    """

    config: Text2ImConfig
    attention_fn: attention_lib.AttentionFn
    constrain: text_encoder.ConstrainFn
    remat: tuple[str, ...]
    remat_text: str
    prediction: str

    def setup(self) -> None:
        dtype = jnp.dtype(self.config.compute_dtype)
        self.text = text_encoder.TextEncoder(
            self.config, self.attention_fn, self.constrain, self.remat_text, dtype
        )
        self.unet = unet.UNet(
            self.config, self.attention_fn, self.constrain, self.remat, dtype
        )

    def encode_text(
        self, tokens: array_types.Tokens, text_mask: array_types.TextMask
    ) -> text_encoder.TextFeatures:
        """Encodes captions.

        Raises:
          UserError: the captions are not text_context tokens long.
        """
        check_tokens(tokens, self.config.text_context)
        return self.text(tokens, text_mask)

    def text_keys_values(
        self, sequence: array_types.TextSequence
    ) -> tuple[jax.Array, ...]:
        """Projects caption features to the keys and values of each attention block."""
        return self.unet.text_keys_values(jnp.asarray(sequence))

    def denoise(
        self,
        x_t: array_types.Image,
        timesteps: array_types.Timesteps,
        text: TextConditioning,
        conditions: PictureConditions,
        guidance_scale: array_types.PerExample | None,
        dropout_keys: array_types.PRNGKeys | None,
    ) -> Float[jax.Array, "b h w 6"]:
        """Returns model_output (B, H, W, 6), float32, for x_t and its conditions.

        A model with a guidance_range also reads the guidance scale of each image.

        Raises:
          ValueError: residual_low_res with a prediction that has no x_start.
        """
        x = assemble_input(self.config, x_t, conditions)
        pooled = jnp.asarray(text.pooled)
        output = self.unet(
            x, timesteps, pooled, text.keys_values, guidance_scale, dropout_keys
        )
        if not self.config.residual_low_res:
            return output
        if self.prediction not in choices.WITH_X_START and not self.is_initializing():
            raise ValueError(f"residual_low_res with prediction={self.prediction!r}")
        # The enlarged low_res is the last condition.
        first, second = jnp.split(output, 2, axis=-1)
        if self.prediction == "x":
            return jnp.concatenate([first + x[..., -3:], second], axis=-1)
        return jnp.concatenate([first, second + x[..., -3:]], axis=-1)

    def __call__(
        self,
        tokens: array_types.Tokens,
        text_mask: array_types.TextMask,
        x_t: array_types.Image,
        timesteps: array_types.Timesteps,
    ) -> Float[jax.Array, "b h w 6"]:
        """Uses every parameter once, for initialisation."""
        features = self.encode_text(tokens, text_mask)
        keys_values = self.text_keys_values(features.sequence)
        text = TextConditioning(features.pooled, keys_values)
        scale = jnp.ones(timesteps.shape) if self.config.guidance_range else None
        return self.denoise(x_t, timesteps, text, PictureConditions(), scale, None)


def check_tokens(tokens: array_types.Tokens, text_context: int) -> None:
    """Raises UserError unless the captions are text_context tokens long."""
    if tokens.shape[1] != text_context:
        raise UserError(
            f"captions have {tokens.shape[1]} tokens, but the model has "
            f"text_context={text_context}; pad or truncate them to that length"
        )


def assemble_input(
    config: Text2ImConfig, x_t: array_types.Image, conditions: PictureConditions
) -> Float[jax.Array, "b h w inputs"]:
    """Concatenates the U-Net's input: x_t, image * mask, mask, upsampled low_res.

    Returns:
      (B, image_px, image_px, config.input_channels).

    Raises:
      UserError: a condition that the model does not read, or one of the wrong size.
    """
    _check_conditions(config, x_t, conditions)
    x_t = jnp.asarray(x_t)
    parts = [x_t]
    if config.inpaint:
        image, mask = conditions.inpaint_image, conditions.inpaint_mask
        mask = jnp.zeros_like(x_t[..., :1]) if mask is None else jnp.asarray(mask)
        image = jnp.zeros_like(x_t) if image is None else jnp.asarray(image)
        parts += [image * mask, mask]
    if config.low_res_px:
        if conditions.low_res is None:
            parts.append(jnp.zeros_like(x_t))
        else:
            low_res = jnp.asarray(conditions.low_res)
            parts.append(jax.image.resize(low_res, x_t.shape, "bilinear"))
    return jnp.concatenate(parts, axis=-1) if len(parts) > 1 else x_t


def _check_conditions(
    config: Text2ImConfig, x_t: array_types.Image, conditions: PictureConditions
) -> None:
    side = config.image_px
    if x_t.shape[1:3] != (side, side):
        raise UserError(
            f"x_t is {x_t.shape[1:3]}, but the model has image_px={side}; resize it"
        )
    if conditions.low_res is not None:
        if not config.low_res_px:
            raise UserError(
                "low_res is given, but the model is not an upsampler; leave it out"
            )
        if conditions.low_res.shape[1:3] != (config.low_res_px, config.low_res_px):
            raise UserError(
                f"low_res is {conditions.low_res.shape[1:3]}, but the model has "
                f"low_res_px={config.low_res_px}; resize it by area to that"
            )
    if not config.inpaint and (
        conditions.inpaint_image is not None or conditions.inpaint_mask is not None
    ):
        raise UserError(
            "inpaint_image or inpaint_mask is given, but the model has inpaint=False; "
            "leave them out"
        )
