"""Group and layer normalisation, and the pointwise functions that follow them.

Statistics are float32, because the rounding error of a half-precision mean over a
feature map is amplified by the division by the standard deviation.

Both have gradients of their own, which store the input and the statistics and nothing
else. The input and the gradient are read twice: once for two sums, once for the result.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from glide_jax import array_types
from glide_jax.models import initializers

NORM_EPSILON = 1e-5  # PyTorch's; Flax's default is 1e-6

Part = Float[jax.Array, "b h w _"]
Parts = tuple[Part, ...]
# Per image and channel, (B, C) float32.
PerChannel = Float[jax.Array, "b c"]


class GroupNorm(nn.Module):
    """Group normalisation, biased variance; optionally scaled, shifted and gated.

    Attributes:
      groups: of channels.
      silu: whether SiLU follows.
      dtype: of the output.
    """

    groups: int
    silu: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, *parts: Part, scale_shift: jax.Array | None = None
    ) -> array_types.FeatureMap:
        """Normalises feature maps that are adjacent along the channel axis.

        Args:
          *parts: one or more arrays (B, H, W, C_i); they are not concatenated first.
          scale_shift: (B, 2 * C) of all C channels: the result is multiplied by
            1 + the first half, and the second half is added, before SiLU.

        Returns:
          (B, H, W, C).
        """
        channels = sum(part.shape[-1] for part in parts)
        gain = self.param("scale", initializers.ONES, (channels,), jnp.float32)
        bias = self.param("bias", initializers.ZEROS, (channels,), jnp.float32)
        gain, bias = gain[None], bias[None]
        if scale_shift is not None:
            scale, shift = jnp.split(scale_shift, 2, axis=-1)
            gain, bias = gain * (1 + scale), bias * (1 + scale) + shift
        shape = (parts[0].shape[0], channels)
        return group_norm(
            parts,
            jnp.broadcast_to(gain, shape),
            jnp.broadcast_to(bias, shape),
            self.groups,
            self.silu,
            self.dtype,
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def group_norm(
    parts: Parts,
    gain: PerChannel,
    bias: PerChannel,
    groups: int,
    silu: bool,
    dtype: Any,
) -> array_types.FeatureMap:
    """Returns f((x - mean) / std * gain + bias), (B, H, W, C), of x's channel groups.

    Args:
      parts: x in parts along the channel axis.
      gain: (B, C).
      bias: (B, C).
      groups: number of groups; it divides C.
      silu: whether f is SiLU, else the identity.
      dtype: of the result.
    """
    return _group_norm_forward(parts, gain, bias, groups, silu, dtype)[0]


def _group_norm_forward(
    parts: Parts,
    gain: PerChannel,
    bias: PerChannel,
    groups: int,
    silu: bool,
    dtype: Any,
) -> tuple[jax.Array, tuple[Any, ...]]:
    mean, variance = _moments(parts, groups)
    deviation = jax.lax.rsqrt(variance + NORM_EPSILON)
    outputs = []
    for x, m, scale, shift in _by_part(parts, mean, deviation * gain, bias):
        y = (x.astype(jnp.float32) - m) * scale + shift
        outputs.append((nn.silu(y) if silu else y).astype(dtype))
    y = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=-1)
    return y, (parts, gain, bias, mean, deviation)


def _group_norm_backward(
    groups: int, silu: bool, dtype: Any, residuals: tuple[Any, ...], by_y: jax.Array
) -> tuple[Parts, jax.Array, jax.Array]:
    """Returns the gradients, with z the normalised x and g the gradient before SiLU.

    d bias = sum g,  d gain = sum g z,
    d x = (g gain - mean(g gain) - z mean(g gain z)) / std, means over a group.
    """
    del dtype
    parts, gain, bias, mean, deviation = residuals
    edges = [sum(x.shape[-1] for x in parts[:i]) for i in range(1, len(parts))]
    by_part = jnp.split(by_y, edges, axis=-1)

    def normalise_and_gradient(
        x: jax.Array, by_y: jax.Array, m: Any, d: Any, gain: Any, bias: Any
    ) -> tuple[jax.Array, jax.Array]:
        z = (x.astype(jnp.float32) - m) * d
        g = by_y.astype(jnp.float32)
        if silu:
            y = z * gain + bias
            sigmoid = jax.nn.sigmoid(y)
            g = g * sigmoid * (1 + y * (1 - sigmoid))
        return z, g

    by_gain, by_bias = [], []
    for (x, m, d, a, b), by_output in zip(
        _by_part(parts, mean, deviation, gain, bias), by_part, strict=True
    ):
        z, g = normalise_and_gradient(x, by_output, m, d, a, b)
        by_bias.append(jnp.sum(g, axis=(1, 2)))
        by_gain.append(jnp.sum(g * z, axis=(1, 2)))
    by_gain = jnp.concatenate(by_gain, axis=-1)
    by_bias = jnp.concatenate(by_bias, axis=-1)
    # Without the barrier XLA sums over batch and pixels a second time, for the
    # gradients of the parameters.
    by_gain, by_bias = jax.lax.optimization_barrier((by_gain, by_bias))
    pixels = by_y.shape[1] * by_y.shape[2]
    mean_g = _over_group(gain * by_bias / pixels, groups)
    mean_gz = _over_group(gain * by_gain / pixels, groups)
    by_x = []
    for (x, m, d, a, b, mg, mgz), by_output in zip(
        _by_part(parts, mean, deviation, gain, bias, mean_g, mean_gz),
        by_part,
        strict=True,
    ):
        z, g = normalise_and_gradient(x, by_output, m, d, a, b)
        by_x.append((d * (g * a - mg - z * mgz)).astype(x.dtype))
    return tuple(by_x), by_gain, by_bias


group_norm.defvjp(_group_norm_forward, _group_norm_backward)


def _moments(parts: Parts, groups: int) -> tuple[PerChannel, PerChannel]:
    """Returns mean and variance of each channel's group, (B, C) each."""
    if all(x.dtype == jnp.float32 for x in parts):
        # Two passes: E[x^2] - E[x]^2 cancels where the mean is large.
        mean = _over_group(_per_channel(parts), groups)
        squares = tuple(jnp.square(x - m) for x, m in _by_part(parts, mean))
        return mean, _over_group(_per_channel(squares), groups)
    # One pass. The first pixel of each channel is subtracted, so that the mean is about
    # as large as the deviation, and little cancels.
    firsts = [x[:, :1, :1].astype(jnp.float32) for x in parts]
    shifted = tuple(x - first for x, first in zip(parts, firsts, strict=True))
    offset = _per_channel(shifted)
    square = _per_channel(tuple(jnp.square(x) for x in shifted))
    channel_mean = offset + _per_channel(tuple(firsts))
    mean = _over_group(channel_mean, groups)
    within = jnp.maximum(square - jnp.square(offset), 0.0)
    between = jnp.square(channel_mean - mean)
    return mean, _over_group(within + between, groups)


def _per_channel(parts: Parts) -> PerChannel:
    """Returns the mean over pixels of each channel, (B, C)."""
    return jnp.concatenate([jnp.mean(x, axis=(1, 2)) for x in parts], axis=-1)


def _over_group(per_channel: PerChannel, groups: int) -> PerChannel:
    """Returns the mean of each channel's group."""
    batch, channels = per_channel.shape
    size = channels // groups
    if size == 1:
        return per_channel
    mean = per_channel.reshape(batch, groups, size).mean(axis=-1)
    return jnp.repeat(mean, size, axis=-1)


def _by_part(parts: Parts, *per_channel: jax.Array) -> list[tuple[jax.Array, ...]]:
    """Returns for each part itself and its channels of each (B, C), as (B, 1, 1, C)."""
    rows, start = [], 0
    for x in parts:
        channels = slice(start, start + x.shape[-1])
        rows.append((x, *(array[:, None, None, channels] for array in per_channel)))
        start = channels.stop
    return rows


class LayerNorm(nn.Module):
    """Layer normalisation of the last axis, biased variance."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[jax.Array, "... d"]) -> Float[jax.Array, "... d"]:
        width = x.shape[-1]
        gain = self.param("scale", initializers.ONES, (width,), jnp.float32)
        bias = self.param("bias", initializers.ZEROS, (width,), jnp.float32)
        return layer_norm(x, jnp.asarray(gain), jnp.asarray(bias), self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[jax.Array, "... d"],
    gain: Float[jax.Array, " d"],
    bias: Float[jax.Array, " d"],
    dtype: Any,
) -> Float[jax.Array, "... d"]:
    """Returns (x - mean) / std * gain + bias over the last axis, of type dtype."""
    return _layer_norm_forward(x, gain, bias, dtype)[0]


def _layer_norm_forward(
    x: jax.Array, gain: jax.Array, bias: jax.Array, dtype: Any
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    centred = wide - mean
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    deviation = jax.lax.rsqrt(variance + NORM_EPSILON)
    y = (centred * deviation * gain + bias).astype(dtype)
    return y, (x, gain, mean, deviation)


def _layer_norm_backward(
    dtype: Any, residuals: tuple[jax.Array, ...], by_y: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    del dtype
    x, gain, mean, deviation = residuals
    z = (x.astype(jnp.float32) - mean) * deviation
    g = by_y.astype(jnp.float32)
    rows = tuple(range(x.ndim - 1))
    weighted = g * gain
    by_x = deviation * (
        weighted
        - jnp.mean(weighted, axis=-1, keepdims=True)
        - z * jnp.mean(weighted * z, axis=-1, keepdims=True)
    )
    return by_x.astype(x.dtype), jnp.sum(g * z, axis=rows), jnp.sum(g, axis=rows)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)
