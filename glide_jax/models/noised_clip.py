"""The noised CLIP: similarity of a caption and a noised image.

CLIP (arXiv 2103.00020) whose image tower reads x_t and its timestep: a learned
embedding of the timestep replaces the class token. Layers, initialisation and pixel
statistics are those of GLIDE's released noised CLIP.
"""

from __future__ import annotations

import math
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float

from glide_jax import array_types
from glide_jax.config import defaults
from glide_jax.config.defaults import NoisedClipConfig
from glide_jax.models import (
    attention,
    initializers,
    layers,
    norms,
    remat,
    text2im,
    text_encoder,
)

NUM_TIMESTEPS = defaults.NOISED_CLIP_TIMESTEPS
# Statistics of 8-bit pixels per channel over GLIDE's training images (published).
PIXEL_MEAN = (122.77093945, 116.74601272, 104.09373519)
PIXEL_STD = (68.50053285, 66.63215831, 70.32316309)
INIT_LOGIT_SCALE = math.log(1 / 0.07)  # CLIP section 2.4
MAX_LOGIT_SCALE = 100.0  # CLIP section 2.4, against instability
NORM_FLOOR = 1e-12  # added to the length of a feature, as released


def attention_heads(config: NoisedClipConfig) -> dict[str, int]:
    """Returns the number of attention heads of each tower."""
    return {
        "model.image_heads": config.image_heads,
        "model.text_heads": config.text_heads,
    }


def normalise(features: array_types.Features) -> array_types.Features:
    """Returns features scaled to unit length."""
    length = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / (length + NORM_FLOOR)


def similarity(
    image_features: array_types.Features, text_features: array_types.Features
) -> array_types.PerExample:
    """Returns the cosine, in [-1, 1], of each image and the caption in its row."""
    product = normalise(image_features) * normalise(text_features)
    return jnp.sum(product, axis=-1)


class ClipBlock(nn.Module):
    """Pre-norm attention and perceptron; the keys have no bias.

    Attributes:
      width: channels.
      heads: attention heads.
      num_layers: of the whole tower; it scales the initial residual branches.
      causal: whether a position attends only to itself and earlier ones.
      constrain: hook on activations, e.g. a sharding constraint.
      dtype: of the linear layers.
    """

    width: int
    heads: int
    num_layers: int
    causal: bool
    constrain: text_encoder.ConstrainFn
    dtype: Any

    @nn.compact
    def __call__(
        self, x: array_types.Sequence, _: None
    ) -> tuple[array_types.Sequence, None]:
        x = remat.name_input(x)
        input_std = self.width**-0.5
        output_std = input_std / (2 * self.num_layers)
        hidden_std = math.sqrt(2 / (4 * self.width))

        def linear(
            name: str, features: int, std: float, use_bias: bool = True
        ) -> layers.Linear:
            return layers.Linear(
                features,
                layer_init=initializers.normal_init(std),
                use_bias=use_bias,
                dtype=self.dtype,
                name=name,
            )

        def heads(projected: jax.Array) -> jax.Array:
            return einops.rearrange(projected, "b l (h c) -> b l h c", h=self.heads)

        y = norms.LayerNorm(self.dtype, name="ln_1")(x)
        mask = np.tri(x.shape[1], dtype=bool) if self.causal else None
        attended = attention.xla_attention(
            heads(linear("query", self.width, input_std)(y)),
            heads(linear("key", self.width, input_std, use_bias=False)(y)),
            heads(linear("value", self.width, input_std)(y)),
            mask,
        )
        attended = einops.rearrange(attended, "b l h c -> b l (h c)")
        x = x + linear("attn_proj", self.width, output_std)(attended)
        y = norms.LayerNorm(self.dtype, name="ln_2")(x)
        y = linear("mlp_in", 4 * self.width, hidden_std)(y)
        y = nn.gelu(y, approximate=False)
        return self.constrain(x + linear("mlp_out", self.width, output_std)(y)), None


class ImageTower(nn.Module):
    """Maps x_t (B, H, W, 3) and timesteps to features (B, embed_dim), float32."""

    config: NoisedClipConfig
    constrain: text_encoder.ConstrainFn
    remat: str  # policy of the layers

    @nn.compact
    def __call__(
        self, x_t: array_types.Image, timesteps: array_types.Timesteps
    ) -> Float[jax.Array, "b e"]:
        width, patch = self.config.image_width, self.config.patch_px
        dtype = jnp.dtype(self.config.compute_dtype)
        embed_init = initializers.Distribution("normal", width**-0.5)
        num_patches = (self.config.image_px // patch) ** 2
        times = self.param("timestep_embedding", embed_init, (NUM_TIMESTEPS, width))
        positions = self.param(
            "positional_embedding", embed_init, (num_patches + 1, width)
        )
        # Not clipped: pixels of a noised image leave [0, 255], as in training.
        pixels = (jnp.asarray(x_t) + 1) * 127.5
        pixels = (pixels - jnp.array(PIXEL_MEAN)) / jnp.array(PIXEL_STD)
        patches = einops.rearrange(
            pixels, "b (h p) (w q) c -> b (h w) (p q c)", p=patch, q=patch
        )
        patch_init = initializers.normal_init(math.sqrt(2 / (width * patch**2)))
        tokens = layers.Linear(
            width, layer_init=patch_init, use_bias=False, dtype=dtype, name="patch"
        )(patches)
        first = jnp.take(times, timesteps, axis=0)[:, None]
        x = jnp.concatenate([first, tokens.astype(jnp.float32)], axis=1) + positions
        x = norms.LayerNorm(dtype, name="ln_in")(x)
        num_layers = self.config.image_layers
        heads = self.config.image_heads
        x, _ = text_encoder.stack(ClipBlock, num_layers, self.remat)(
            width, heads, num_layers, False, self.constrain, dtype, name="layers"
        )(self.constrain(x), None)
        return _project(x[:, 0], self.config.embed_dim)


class TextTower(nn.Module):
    """Maps tokens and text_mask, (B, L) each, to features (B, embed_dim), float32."""

    config: NoisedClipConfig
    constrain: text_encoder.ConstrainFn
    remat: str  # policy of the layers

    @nn.compact
    def __call__(
        self, tokens: array_types.Tokens, text_mask: array_types.TextMask
    ) -> Float[jax.Array, "b e"]:
        text2im.check_tokens(tokens, self.config.text_context)
        config, width = self.config, self.config.text_width
        dtype = jnp.dtype(config.compute_dtype)
        table = self.param(
            "token_embedding",
            initializers.Distribution("normal", 0.02),
            (config.vocab_size, width),
        )
        positions = self.param(
            "positional_embedding",
            initializers.Distribution("normal", 0.01),
            (config.text_context, width),
        )
        x = (jnp.take(table, jnp.asarray(tokens), axis=0) + positions).astype(dtype)
        # Causal: the caption's last token does not attend to the padding after it.
        heads, num_layers = config.text_heads, config.text_layers
        x, _ = text_encoder.stack(ClipBlock, num_layers, self.remat)(
            width, heads, num_layers, True, self.constrain, dtype, name="layers"
        )(self.constrain(x), None)
        last = jnp.maximum(jnp.sum(text_mask, axis=-1), 1) - 1
        x = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        return _project(x, config.embed_dim)


def _project(x: array_types.Embedding, embed_dim: int) -> Float[jax.Array, "b e"]:
    """Applies a norm and a Glorot-normal projection; called in a compact method."""
    init = initializers.normal_init(math.sqrt(2 / (x.shape[-1] + embed_dim)))
    x = norms.LayerNorm(name="ln_out")(x)
    return layers.Linear(embed_dim, layer_init=init, use_bias=False, name="output")(x)


class NoisedClip(nn.Module):
    """Both towers and the logit scale (the inverse temperature) of training."""

    config: NoisedClipConfig
    constrain: text_encoder.ConstrainFn
    remat: str  # policy of the image tower's layers
    remat_text: str  # of the text tower's

    def setup(self) -> None:
        self.image = ImageTower(self.config, self.constrain, self.remat)
        self.text = TextTower(self.config, self.constrain, self.remat_text)
        self.logit_scale = self.param(
            "logit_scale", initializers.Distribution("constant", INIT_LOGIT_SCALE), ()
        )

    def encode_image(
        self, x_t: array_types.Image, timesteps: array_types.Timesteps
    ) -> Float[jax.Array, "b e"]:
        """Returns features of noised images, not normalised."""
        return self.image(x_t, timesteps)

    def encode_text(
        self, tokens: array_types.Tokens, text_mask: array_types.TextMask
    ) -> Float[jax.Array, "b e"]:
        """Returns features of captions, not normalised."""
        return self.text(tokens, text_mask)

    def __call__(
        self,
        x_t: array_types.Image,
        timesteps: array_types.Timesteps,
        tokens: array_types.Tokens,
        text_mask: array_types.TextMask,
    ) -> tuple[Float[jax.Array, "b e"], Float[jax.Array, "b e"]]:
        """Uses every parameter once, for initialisation."""
        return self.image(x_t, timesteps), self.text(tokens, text_mask)
