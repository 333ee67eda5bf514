"""Layers shared by all networks.

Parameters are float32. A layer computes in its `dtype`; norms always compute in and
return float32, because the rounding error of a half-precision mean over a feature map
is amplified by the division by the standard deviation.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from glide_jax import array_types
from glide_jax.models import initializers

NORM_EPSILON = 1e-5  # PyTorch's; Flax's default is 1e-6
MAX_PERIOD = 10000.0  # of the timestep embedding: Attention Is All You Need, 3.5


class Linear(nn.Module):
    """An affine map of the last axis; also the 1x1 convolution of an image."""

    features: int
    layer_init: initializers.LayerInit = initializers.torch_init
    use_bias: bool = True
    dtype: Any = jnp.float32
    precision: Any = None

    @nn.compact
    def __call__(self, x: Float[jax.Array, "... c"]) -> Float[jax.Array, "... d"]:
        fan_in = x.shape[-1]
        kernel_init, bias_init = self.layer_init(fan_in)
        kernel = self.param("kernel", kernel_init, (fan_in, self.features), jnp.float32)
        y = jnp.dot(
            x.astype(self.dtype), kernel.astype(self.dtype), precision=self.precision
        )
        if self.use_bias:
            bias = self.param("bias", bias_init, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)
        return y


class Conv3x3(nn.Module):
    """A 3x3 convolution, stride 1, zero padding, on NHWC."""

    features: int
    layer_init: initializers.LayerInit = initializers.torch_init
    dtype: Any = jnp.float32
    precision: Any = None

    @nn.compact
    def __call__(self, x: array_types.FeatureMap) -> Float[jax.Array, "b h w features"]:
        fan_in = 9 * x.shape[-1]
        kernel_init, bias_init = self.layer_init(fan_in)
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        bias = self.param("bias", bias_init, (self.features,), jnp.float32)
        y = conv3x3(x.astype(self.dtype), kernel.astype(self.dtype), self.precision)
        return y + bias.astype(self.dtype)


def conv3x3(
    x: array_types.FeatureMap,
    kernel: Float[array_types.Array, "3 3 c features"],
    precision: Any = None,
) -> Float[jax.Array, "b h w features"]:
    """Returns the 3x3 convolution, by the fastest program for platform and shape.

    On a CPU, XLA's convolution is slow if the kernel is larger than the image, as at
    the bottom of a released U-Net. There a product of unfolded pixels takes half the
    time.
    """
    batch, height, width, channels = x.shape
    # A symbolic batch size belongs to a program that is exported for all platforms.
    is_local_cpu = jax.default_backend() == "cpu" and isinstance(batch, int)
    if is_local_cpu and batch * height * width <= channels:
        return unfolded_conv3x3(x, kernel, precision)
    return jax.lax.conv_general_dilated(
        x,
        jnp.asarray(kernel),
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def unfolded_conv3x3(
    x: array_types.FeatureMap,
    kernel: Float[array_types.Array, "3 3 c features"],
    precision: Any = None,
) -> Float[jax.Array, "b h w features"]:
    """Returns the 3x3 convolution as one product of unfolded 3x3 neighbourhoods."""
    _, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    neighbours = [
        padded[:, row : row + height, column : column + width]
        for row in range(3)
        for column in range(3)
    ]
    unfolded = jnp.concatenate(neighbours, axis=-1)
    matrix = kernel.reshape(9 * channels, kernel.shape[-1])
    return jnp.dot(unfolded, matrix, precision=precision)


class GroupNorm(nn.Module):
    """Group normalisation, biased variance, float32 output."""

    groups: int

    @nn.compact
    def __call__(self, x: array_types.FeatureMap) -> array_types.FeatureMap:
        channels = x.shape[-1]
        gain = self.param("scale", initializers.ONES, (channels,), jnp.float32)
        bias = self.param("bias", initializers.ZEROS, (channels,), jnp.float32)
        x = x.astype(jnp.float32)
        # Averages over pixels first, then over groups: the image is not reshaped.
        mean = self._over_group(jnp.mean(x, axis=(1, 2)))
        centred = x - mean[:, None, None]
        # Two passes: E[x^2] - E[x]^2 cancels where the mean is large.
        variance = self._over_group(jnp.mean(jnp.square(centred), axis=(1, 2)))
        gain = jax.lax.rsqrt(variance + NORM_EPSILON) * gain
        return centred * gain[:, None, None] + bias

    def _over_group(self, per_channel: array_types.Embedding) -> array_types.Embedding:
        batch, channels = per_channel.shape
        size = channels // self.groups
        if size == 1:
            return per_channel
        mean = per_channel.reshape(batch, self.groups, size).mean(axis=-1)
        return jnp.repeat(mean, size, axis=-1)


class LayerNorm(nn.Module):
    """Layer normalisation of the last axis, biased variance, float32 output."""

    @nn.compact
    def __call__(self, x: Float[jax.Array, "... d"]) -> Float[jax.Array, "... d"]:
        width = x.shape[-1]
        gain = self.param("scale", initializers.ONES, (width,), jnp.float32)
        bias = self.param("bias", initializers.ZEROS, (width,), jnp.float32)
        x = x.astype(jnp.float32)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + NORM_EPSILON) * gain + bias


def timestep_embedding(
    timesteps: array_types.Timesteps, dim: int
) -> array_types.Embedding:
    """Returns sinusoids [cos, sin] of the timesteps, float32 (B, dim).

    The wavelengths increase geometrically from 2 pi to 10000 * 2 pi.

    Args:
      timesteps: int (B,).
      dim: number of channels, even.
    """
    half = dim // 2
    exponents = -math.log(MAX_PERIOD) / half * jnp.arange(half, dtype=jnp.float32)
    angles = timesteps.astype(jnp.float32)[:, None] * jnp.exp(exponents)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def upsample(x: array_types.FeatureMap) -> Float[jax.Array, "b h2 w2 c"]:
    """Returns the image at twice its side, nearest neighbour."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(
        x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels)
    )
    return x.reshape(batch, 2 * height, 2 * width, channels)


def downsample(x: array_types.FeatureMap) -> Float[jax.Array, "b h2 w2 c"]:
    """Returns the image at half its side, mean of 2x2 boxes."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return x.mean(axis=(2, 4))


def dropout(
    x: array_types.FeatureMap, keys: array_types.PRNGKeys, drop_prob: float
) -> array_types.FeatureMap:
    """Returns x with entries zeroed at random and the others scaled by 1/(1 - p).

    Each example has its own key, so its mask depends neither on the mesh nor on
    gradient accumulation.

    Args:
      x: (B, H, W, C).
      keys: one per example, (B,).
      drop_prob: p, the probability of zeroing an entry, in [0, 1).
    """
    keep_prob = 1.0 - drop_prob
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, keep_prob, x.shape[1:]))(keys)
    return jnp.where(keep, x / keep_prob, jnp.zeros_like(x))
