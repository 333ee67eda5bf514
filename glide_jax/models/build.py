"""How does a configuration become pure functions of a parameter tree?

The seam to the rest of the project: outside models/ and convert/ nobody sees Flax, only
nested dicts of arrays and these records of functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from glide_jax import array_types
from glide_jax.config.defaults import ModelConfig, NoisedClipConfig, Text2ImConfig
from glide_jax.errors import UserError
from glide_jax.models import attention as attention_lib
from glide_jax.models import initializers, noised_clip, text2im, text_encoder

TextFeatures = text_encoder.TextFeatures
TextConditioning = text2im.TextConditioning


class DenoiserFns(NamedTuple):
    """The text-conditional denoiser; every function is pure and may be jitted.

    Attributes:
      init: key -> params.
      encode_text: (params, tokens, text_mask) -> TextFeatures.
      text_keys_values: (params, features) -> one array per attention block.
      denoise: (params, x_t, timesteps, text, *, low_res, inpaint_image, inpaint_mask,
        dropout_keys) -> model_output (B, H, W, 6), float32.
    """

    init: Callable[..., array_types.Params]
    encode_text: Callable[..., TextFeatures]
    text_keys_values: Callable[..., tuple[jax.Array, ...]]
    denoise: Callable[..., jax.Array]

    def encode(
        self,
        params: array_types.Params,
        tokens: array_types.Tokens,
        text_mask: array_types.TextMask,
    ) -> TextConditioning:
        """A caption as `denoise` takes it."""
        features = self.encode_text(params, tokens, text_mask)
        return TextConditioning(
            features.pooled, self.text_keys_values(params, features)
        )


def make_denoiser(
    config: Text2ImConfig,
    *,
    constrain: text_encoder.ConstrainFn | None = None,
    attention: attention_lib.AttentionFn | None = None,
    remat: tuple[str, ...] = ("none",),
    remat_text: str = "none",
) -> DenoiserFns:
    """The functions of a text-to-image, upsampling or inpainting model.

    Args:
      config: sizes, and which pictures the model reads.
      constrain: hook on activations (batch axis first), e.g. a sharding constraint.
      attention: replaces plain attention over images, e.g. a fused kernel.
      remat: what the backward pass computes again, a policy of `models.remat` for all
        levels or one for each from the finest.
      remat_text: the same, of the text transformer's layers.
    """
    model = text2im.Text2Im(
        config,
        attention or attention_lib.xla_attention,
        constrain or _identity,
        remat,
        remat_text,
    )

    def init(key: array_types.PRNGKey) -> array_types.Params:
        tokens = jnp.zeros((1, config.text_context), jnp.int32)
        x_t = jnp.zeros((1, config.image_px, config.image_px, 3))
        timesteps = jnp.zeros((1,), jnp.int32)
        return _init(model, key, tokens, tokens > 0, x_t, timesteps)

    def encode_text(
        params: array_types.Params,
        tokens: array_types.Tokens,
        text_mask: array_types.TextMask,
    ) -> TextFeatures:
        variables = {"params": params}
        return model.apply(variables, tokens, text_mask, method="encode_text")

    def text_keys_values(
        params: array_types.Params, features: TextFeatures
    ) -> tuple[jax.Array, ...]:
        variables = {"params": params}
        return model.apply(variables, features.sequence, method="text_keys_values")

    def denoise(
        params: array_types.Params,
        x_t: array_types.Image,
        timesteps: array_types.Timesteps,
        text: TextConditioning,
        *,
        low_res: Float[array_types.Array, "b h_low w_low c"] | None = None,
        inpaint_image: array_types.Image | None = None,
        inpaint_mask: Float[array_types.Array, "b h w 1"] | None = None,
        dropout_keys: array_types.PRNGKeys | None = None,
    ) -> Float[array_types.Array, "b h w 6"]:
        pictures = text2im.Pictures(low_res, inpaint_image, inpaint_mask)
        return model.apply(
            {"params": params},
            x_t,
            timesteps,
            text,
            pictures,
            dropout_keys,
            method="denoise",
        )

    return DenoiserFns(jax.jit(init), encode_text, text_keys_values, denoise)


class ClipFns(NamedTuple):
    """The noised CLIP; every function is pure and may be jitted.

    Attributes:
      init: key -> params {"image", "text", "logit_scale"}.
      encode_image: (params, x_t, timesteps) -> features (B, E), not normalised.
      encode_text: (params, tokens, text_mask) -> features (B, E), not normalised.
      logit_scale: params -> the factor on a cosine, at most 100.
    """

    init: Callable[..., array_types.Params]
    encode_image: Callable[..., jax.Array]
    encode_text: Callable[..., jax.Array]
    logit_scale: Callable[..., jax.Array]


def make_clip(
    config: NoisedClipConfig,
    *,
    constrain: text_encoder.ConstrainFn | None = None,
    remat: str = "none",
    remat_text: str = "none",
) -> ClipFns:
    """The functions of a noised CLIP; `noised_clip.similarity` compares features.

    The other arguments are those of `make_denoiser`, `remat` of the image tower.
    """
    model = noised_clip.NoisedClip(config, constrain or _identity, remat, remat_text)

    def init(key: array_types.PRNGKey) -> array_types.Params:
        x_t = jnp.zeros((1, config.image_px, config.image_px, 3))
        tokens = jnp.zeros((1, config.text_context), jnp.int32)
        timesteps = jnp.zeros((1,), jnp.int32)
        return _init(model, key, x_t, timesteps, tokens, tokens > 0)

    def encode_image(
        params: array_types.Params,
        x_t: array_types.Image,
        timesteps: array_types.Timesteps,
    ) -> array_types.Features:
        variables = {"params": params}
        return model.apply(variables, x_t, timesteps, method="encode_image")

    def encode_text(
        params: array_types.Params,
        tokens: array_types.Tokens,
        text_mask: array_types.TextMask,
    ) -> array_types.Features:
        variables = {"params": params}
        return model.apply(variables, tokens, text_mask, method="encode_text")

    def logit_scale(params: array_types.Params) -> jax.Array:
        scale = jnp.exp(params["logit_scale"])
        return jnp.minimum(scale, noised_clip.MAX_LOGIT_SCALE)

    return ClipFns(jax.jit(init), encode_image, encode_text, logit_scale)


def abstract_params(config: ModelConfig) -> array_types.Params:
    """Shapes and dtypes of a model's parameters, without computing any."""
    is_clip = isinstance(config, NoisedClipConfig)
    fns = make_clip(config) if is_clip else make_denoiser(config)
    return jax.eval_shape(fns.init, jax.random.key(0))


def checked_params(
    params: array_types.Params, config: ModelConfig, where: str
) -> array_types.Params:
    """Parameters as float32 numpy arrays, of exactly the shapes that `config` asks for.

    Weights stored in half precision are computed with, and trained on, as any others.

    Raises:
      UserError: the first tensor that is missing, too much or of another shape;
        `where` names the place they came from.
    """
    found, wanted = _shapes_by_path(params), _shapes_by_path(abstract_params(config))
    for path in sorted(found.keys() | wanted.keys()):
        if found.get(path) != wanted.get(path):
            raise UserError(
                f"{where}: tensor {path} has shape {found.get(path)}, its config.json "
                f"asks for {wanted.get(path)}; export the model again"
            )
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)


def parameter_count(params: Any) -> int:
    """Numbers in a parameter tree, of arrays or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def parameters_by_part(params: array_types.Params) -> dict[str, int]:
    """Parameter count of each part, in the order of first use, and no total.

    The parts are the top of the tree, with a U-Net split into its blocks' names:
    "text", "unet/inputs_0", ...; keys without children stand for themselves.
    """
    counts = {}
    for name, child in params.items():
        if name == "unet":
            for block, leaves in child.items():
                counts[f"unet/{block}"] = parameter_count(leaves)
        else:
            counts[name] = parameter_count(child)
    return counts


def _shapes_by_path(tree: array_types.Params) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _init(model, key, *inputs):
    """Parameters of a module; its forward pass is only traced for their shapes."""
    described = jax.eval_shape(model.init, key, *inputs)["params"]
    return initializers.draw_params(key, described)


def _identity(x):
    return x
