"""How many floating-point operations does one forward pass of an image take?

A multiply-accumulate counts as two. Convolutions, linear maps and the two products of
attention are counted; norms, activations and resampling are not, by custom (1% here).
"""

from __future__ import annotations

from glide_jax.config.defaults import ModelConfig, NoisedClipConfig, Text2ImConfig
from glide_jax.models import layout


def forward_flops(config: ModelConfig) -> dict[str, float]:
    """FLOPs of one image's forward pass by part; their sum is the whole pass.

    "text" is the caption's transformer and "text_keys_values" its projections for the
    attention blocks, both once per caption in sampling; "unet" is paid at every step.
    Training takes three times the sum: the backward pass costs two forward passes.
    """
    if isinstance(config, NoisedClipConfig):
        return _clip_flops(config)
    return _text2im_flops(config)


def unet_block_flops(config: Text2ImConfig) -> list[float]:
    """FLOPs of one image's forward pass in each block, in the layout's order of use."""
    embedding = 4 * config.num_channels
    blocks = layout.make_layout(config).blocks()
    return [_block(spec, embedding, config.text_context) for spec in blocks]


def _linear(rows: int, in_features: int, features: int) -> float:
    return 2.0 * rows * in_features * features


def _conv3x3(px: int, in_channels: int, channels: int) -> float:
    return _linear(px**2, 9 * in_channels, channels)


def _attention(queries: int, keys: int, width: int) -> float:
    """Logits and weighted sum, all heads together."""
    return 2 * _linear(queries, width, keys)


def _transformer(length: int, width: int, num_layers: int) -> float:
    """Projections of 4 width^2 and a perceptron of 8 width^2 a layer, and attention."""
    layer = _linear(length, width, 12 * width) + _attention(length, length, width)
    return num_layers * layer


def _text2im_flops(config: Text2ImConfig) -> dict[str, float]:
    embedding = 4 * config.num_channels
    blocks = layout.make_layout(config).blocks()
    text = _transformer(config.text_context, config.text_width, config.text_layers)
    text += _linear(1, config.text_width, embedding)
    unet = _linear(1, config.num_channels, embedding)
    unet += _linear(1, embedding, embedding)
    unet += _conv3x3(config.image_px, config.input_channels, config.num_channels)
    unet += _conv3x3(config.image_px, config.num_channels, 6)
    unet += sum(unet_block_flops(config))
    keys_values = sum(
        _linear(config.text_context, config.text_width, 2 * spec.channels)
        for spec in blocks
        if spec.attention
    )
    return {"text": text, "text_keys_values": keys_values, "unet": unet}


def _block(spec: layout.BlockSpec, embedding: int, text_context: int) -> float:
    px = spec.px // 2 if spec.resample == "down" else spec.px
    total = _res_block(px, spec.in_channels, spec.channels, embedding)
    if spec.attention:
        positions = px**2
        total += _linear(positions, spec.channels, 4 * spec.channels)
        total += _attention(positions, positions + text_context, spec.channels)
    if spec.last:
        last_px = 2 * px if spec.last == "up" else px
        total += _res_block(last_px, spec.channels, spec.channels, embedding)
    return total


def _res_block(px: int, in_channels: int, channels: int, embedding: int) -> float:
    """Both convolutions run at px, the side after resampling."""
    total = _conv3x3(px, in_channels, channels) + _conv3x3(px, channels, channels)
    total += _linear(1, embedding, 2 * channels)
    if in_channels != channels:
        total += _linear(px**2, in_channels, channels)
    return total


def _clip_flops(config: NoisedClipConfig) -> dict[str, float]:
    patches = (config.image_px // config.patch_px) ** 2
    image = _linear(patches, 3 * config.patch_px**2, config.image_width)
    image += _transformer(patches + 1, config.image_width, config.image_layers)
    image += _linear(1, config.image_width, config.embed_dim)
    text = _transformer(config.text_context, config.text_width, config.text_layers)
    text += _linear(1, config.text_width, config.embed_dim)
    return {"image": image, "text": text}
