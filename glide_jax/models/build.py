"""Model families, and the pure functions of a parameter tree that each is built into.

Code outside models/ and convert/ does not use Flax. It uses nested dicts of arrays and
the functions of `DenoiserFns` and `ClipFns`. FAMILIES lists every model family once:

| family      | configuration    | functions   | roles           |
|-------------|------------------|-------------|-----------------|
| text2im     | Text2ImConfig    | DenoiserFns | base, upsampler |
| noised_clip | NoisedClipConfig | ClipFns     | noised_clip     |
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float

from glide_jax import array_types
from glide_jax.config.defaults import ModelConfig, NoisedClipConfig, Text2ImConfig
from glide_jax.errors import UserError
from glide_jax.models import attention as attention_lib
from glide_jax.models import (
    flops,
    initializers,
    layout,
    noised_clip,
    text2im,
    text_encoder,
)

TextFeatures = text_encoder.TextFeatures
TextConditioning = text2im.TextConditioning


class DenoiserFns(NamedTuple):
    """Functions of a text-conditional denoiser, pure and traceable.

    Attributes:
      init: key -> params.
      encode_text: (params, tokens, text_mask) -> TextFeatures.
      text_keys_values: (params, features) -> one array per attention block.
      denoise: (params, x_t, timesteps, text, *, low_res, inpaint_image, inpaint_mask,
        guidance_scale, dropout_keys) -> model_output (B, H, W, 6), float32.
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
        """Encodes captions, (B, L) tokens, to the `text` argument of `denoise`."""
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
    prediction: str = "",
) -> DenoiserFns:
    """Returns the functions of a text-to-image, upsampling or inpainting model.

    Args:
      config: sizes and conditions of the model.
      constrain: hook on activations (batch axis first), e.g. a sharding constraint.
      attention: computes attention, e.g. by a fused kernel; None: XLA's.
      remat: policy of `models.remat` for all levels, or one for each from the finest.
      remat_text: policy of the text transformer's layers.
      prediction: what the output stands for, x or x_and_eps. Only `denoise` of a model
        with residual_low_res needs it.
    """
    attention = attention or attention_lib.xla_attention
    constrain = constrain or _identity
    model = text2im.Text2Im(config, attention, constrain, remat, remat_text, prediction)

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
        return _apply(model, params, tokens, text_mask, method="encode_text")

    def text_keys_values(
        params: array_types.Params, features: TextFeatures
    ) -> tuple[jax.Array, ...]:
        return _apply(model, params, features.sequence, method="text_keys_values")

    def denoise(
        params: array_types.Params,
        x_t: array_types.Image,
        timesteps: array_types.Timesteps,
        text: TextConditioning,
        *,
        low_res: Float[array_types.Array, "b h_low w_low c"] | None = None,
        inpaint_image: array_types.Image | None = None,
        inpaint_mask: Float[array_types.Array, "b h w 1"] | None = None,
        guidance_scale: array_types.PerExample | None = None,
        dropout_keys: array_types.PRNGKeys | None = None,
    ) -> Float[jax.Array, "b h w 6"]:
        conditions = text2im.PictureConditions(low_res, inpaint_image, inpaint_mask)
        inputs = (x_t, timesteps, text, conditions, guidance_scale, dropout_keys)
        return _apply(model, params, *inputs, method="denoise")

    return DenoiserFns(jax.jit(init), encode_text, text_keys_values, denoise)


class ClipFns(NamedTuple):
    """Functions of a noised CLIP, pure and traceable.

    Attributes:
      init: key -> params {"image", "text", "logit_scale"}.
      encode_image: (params, x_t, timesteps) -> features (B, E), not normalised.
      encode_text: (params, tokens, text_mask) -> features (B, E), not normalised.
      logit_scale: params -> the factor on cosines, at most 100.
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
    """Returns the functions of a noised CLIP.

    `noised_clip.similarity` compares the features of images and captions.

    Args:
      config: sizes of the model.
      constrain: hook on activations (batch axis first), e.g. a sharding constraint.
      remat: policy of `models.remat` for the image tower's layers.
      remat_text: policy of the text tower's layers.
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
    ) -> Float[jax.Array, "b e"]:
        return _apply(model, params, x_t, timesteps, method="encode_image")

    def encode_text(
        params: array_types.Params,
        tokens: array_types.Tokens,
        text_mask: array_types.TextMask,
    ) -> Float[jax.Array, "b e"]:
        return _apply(model, params, tokens, text_mask, method="encode_text")

    def logit_scale(params: array_types.Params) -> jax.Array:
        scale = jnp.exp(params["logit_scale"])
        return jnp.minimum(scale, noised_clip.MAX_LOGIT_SCALE)

    return ClipFns(jax.jit(init), encode_image, encode_text, logit_scale)


@dataclasses.dataclass(frozen=True)
class Family:
    """Everything that the project needs to know of a model family.

    Attributes:
      name: the value of `config.model.family`.
      config_class: the class of `config.model`.
      make_fns: config -> DenoiserFns or ClipFns; see `make_denoiser` and `make_clip`.
      forward_flops: config -> FLOPs of one image's forward pass by part.
      attention_heads: config -> number of heads by the name of each part that has
        attention; tensor parallelism must divide them.
      sharding_rules: tensor parallelism: patterns of parameter paths, and the mesh axis
        of each dimension, see parallel/sharding_rules.py.
      role: config -> "base", "upsampler" or "noised_clip".
    """

    name: str
    config_class: type[ModelConfig]
    make_fns: Callable[..., DenoiserFns | ClipFns]
    forward_flops: Callable[..., dict[str, float]]
    attention_heads: Callable[..., dict[str, int]]
    sharding_rules: tuple[tuple[str, tuple[str | None, ...]], ...]
    role: Callable[..., str]


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="text2im",
            config_class=Text2ImConfig,
            make_fns=make_denoiser,
            forward_flops=flops.text2im_flops,
            attention_heads=lambda config: {
                "model.text_heads": config.text_heads,
                **layout.attention_heads(config),
            },
            sharding_rules=(
                *text_encoder.TENSOR_RULES,
                *attention_lib.TENSOR_RULES,
            ),
            role=lambda config: "upsampler" if config.low_res_px else "base",
        ),
        Family(
            name="noised_clip",
            config_class=NoisedClipConfig,
            make_fns=make_clip,
            forward_flops=flops.noised_clip_flops,
            attention_heads=noised_clip.attention_heads,
            sharding_rules=text_encoder.TENSOR_RULES,
            role=lambda config: "noised_clip",
        ),
    )
}


def family_of(config: ModelConfig) -> Family:
    """Returns the family of a model."""
    return FAMILIES[config.family]


def role_of(config: ModelConfig) -> str:
    """Returns a model's role in the cascade: "base", "upsampler" or "noised_clip"."""
    return family_of(config).role(config)


def forward_flops(config: ModelConfig) -> dict[str, float]:
    """Returns the FLOPs of one image's forward pass by part; see `models.flops`.

    Training takes three times the sum: the backward pass costs two forward passes.
    """
    return family_of(config).forward_flops(config)


def abstract_params(config: ModelConfig) -> array_types.Params:
    """Returns shapes and dtypes of a model's parameters, without computing them."""
    fns = family_of(config).make_fns(config)
    return jax.eval_shape(fns.init, jax.random.key(0))


def checked_params(
    params: array_types.Params, config: ModelConfig, where: str
) -> array_types.Params:
    """Returns parameters as float32 numpy arrays, after a check of their shapes.

    Args:
      params: of any floating dtype; weights in half precision are converted.
      config: of the model.
      where: origin of the parameters, for the error.

    Raises:
      UserError: a tensor that is missing, unknown or of another shape.
    """
    actual, expected = _shapes_by_path(params), _shapes_by_path(abstract_params(config))
    for path in sorted(actual.keys() | expected.keys()):
        if actual.get(path) != expected.get(path):
            raise UserError(
                f"{where}: tensor {path} has shape {actual.get(path)}, but its "
                f"config.json requires {expected.get(path)}; export the model again"
            )
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)


def dtype_in_memory(path: jax.tree_util.KeyPath, param_dtype: str) -> np.dtype:
    """Returns param_dtype for a matrix, which layers cast, and float32 for others."""
    is_matrix = getattr(path[-1], "key", None) == "kernel"
    return jnp.dtype(param_dtype if is_matrix else "float32")


def parameter_count(params: Any) -> int:
    """Returns the number of parameters in a tree of arrays or ShapeDtypeStructs."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def parameters_by_part(params: array_types.Params) -> dict[str, int]:
    """Returns the parameter count of each part, in order of first use.

    The parts are the top-level keys of the tree, and the blocks of a U-Net: "text",
    "unet/inputs_0", ...
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


def _init(
    model: nn.Module, key: array_types.PRNGKey, *inputs: jax.Array
) -> array_types.Params:
    """Draws the parameters of a module; its forward pass is traced for shapes only."""
    described = jax.eval_shape(model.init, key, *inputs)["params"]
    return initializers.draw_params(key, described)


def _apply(
    model: nn.Module, params: array_types.Params, *args: Any, method: str
) -> Any:
    return model.apply({"params": params}, *args, method=method)


def _identity(x: jax.Array) -> jax.Array:
    return x
