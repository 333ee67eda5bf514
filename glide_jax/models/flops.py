"""Floating-point operations of one image's forward pass.

A multiply-accumulate counts as two. Convolutions, linear maps and the two products of
attention are counted; norms, activations and resampling (1% here) are not, by custom.
"""

from __future__ import annotations

from glide_jax.config.defaults import NoisedClipConfig, Text2ImConfig
from glide_jax.models import layout


def text2im_flops(config: Text2ImConfig) -> dict[str, float]:
    """Returns the FLOPs of each part of the text-to-image model.

    "text" is the caption's transformer and "text_keys_values" its projections for the
    attention blocks; sampling computes both once per caption. "unet" is computed at
    every step.
    """
    embedding = 4 * config.num_channels
    blocks = layout.make_layout(config).blocks()
    text = _transformer(config.text_context, config.text_width, config.text_layers)
    text += _linear(1, config.text_width, embedding)
    unet = _linear(1, config.num_channels, embedding)
    unet += _linear(1, embedding, embedding)
    px, area = config.grid_px, config.patch_px**2
    unet += _conv3x3(px, config.input_channels * area, config.num_channels)
    unet += _conv3x3(px, config.num_channels, 6 * area)
    unet += sum(unet_block_flops(config))
    keys_values = sum(
        _linear(config.text_context, config.text_width, 2 * spec.channels)
        for spec in blocks
        if spec.attention
    )
    return {"text": text, "text_keys_values": keys_values, "unet": unet}


def noised_clip_flops(config: NoisedClipConfig) -> dict[str, float]:
    """Returns the FLOPs of the image tower and of the text tower."""
    patches = (config.image_px // config.patch_px) ** 2
    image = _linear(patches, 3 * config.patch_px**2, config.image_width)
    image += _transformer(patches + 1, config.image_width, config.image_layers)
    image += _linear(1, config.image_width, config.embed_dim)
    text = _transformer(config.text_context, config.text_width, config.text_layers)
    text += _linear(1, config.text_width, config.embed_dim)
    return {"image": image, "text": text}


def unet_block_flops(config: Text2ImConfig) -> list[float]:
    """Returns the FLOPs of each block of the U-Net, in order of use."""
    embedding = 4 * config.num_channels
    blocks = layout.make_layout(config).blocks()
    return [_block(spec, embedding, config.text_context) for spec in blocks]


def _linear(rows: int, in_features: int, features: int) -> float:
    return 2.0 * rows * in_features * features


def _conv3x3(px: int, in_channels: int, channels: int) -> float:
    return _linear(px**2, 9 * in_channels, channels)


def _attention(queries: int, keys: int, width: int) -> float:
    """Logits and weighted sum of all heads."""
    return 2 * _linear(queries, width, keys)


def _transformer(length: int, width: int, num_layers: int) -> float:
    """Per layer: projections 4 width^2, perceptron 8 width^2, and attention."""
    layer = _linear(length, width, 12 * width) + _attention(length, length, width)
    return num_layers * layer


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
    """FLOPs of both convolutions at `px`, the side after resampling."""
    total = _conv3x3(px, in_channels, channels) + _conv3x3(px, channels, channels)
    total += _linear(1, embedding, 2 * channels)
    if in_channels != channels:
        total += _linear(px**2, in_channels, channels)
    return total
