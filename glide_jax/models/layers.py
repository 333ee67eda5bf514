"""What are the layers that every network here is made of?

Parameters are float32. A layer computes in its `dtype`; norms always compute and
answer in float32, because a half-precision mean over a feature map loses the digits
that the division by the deviation then magnifies.
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
    init: initializers.LayerInit = initializers.torch_init
    use_bias: bool = True
    dtype: Any = jnp.float32
    precision: Any = None

    @nn.compact
    def __call__(self, x):
        fan_in = x.shape[-1]
        kernel_init, bias_init = self.init(fan_in)
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
    init: initializers.LayerInit = initializers.torch_init
    dtype: Any = jnp.float32
    precision: Any = None

    @nn.compact
    def __call__(self, x):
        fan_in = 9 * x.shape[-1]
        kernel_init, bias_init = self.init(fan_in)
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        bias = self.param("bias", bias_init, (self.features,), jnp.float32)
        y = conv3x3(x.astype(self.dtype), kernel.astype(self.dtype), self.precision)
        return y + bias.astype(self.dtype)


def conv3x3(
    x: array_types.Image,
    kernel: Float[array_types.Array, "3 3 c features"],
    precision: Any = None,
) -> Float[array_types.Array, "b h w features"]:
    """The convolution of Conv3x3, by the program that suits platform and shape.

    XLA's convolutions on a CPU are slow where a kernel has more to read than the
    picture, at the bottom of a released U-Net: there a product of unfolded pixels
    takes half of the time.
    """
    batch, height, width, channels = x.shape
    # A batch that is no number belongs to a program exported for any platform.
    is_for_here = jax.default_backend() == "cpu" and isinstance(batch, int)
    if is_for_here and batch * height * width <= channels:
        return unfolded_conv3x3(x, kernel, precision)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def unfolded_conv3x3(
    x: array_types.Image,
    kernel: Float[array_types.Array, "3 3 c features"],
    precision: Any = None,
) -> Float[array_types.Array, "b h w features"]:
    """The same as one matrix product: each pixel beside its eight neighbours."""
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
    """Group normalisation, biased variance, float32 in and out."""

    groups: int

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        gain = self.param("scale", initializers.ONES, (channels,), jnp.float32)
        bias = self.param("bias", initializers.ZEROS, (channels,), jnp.float32)
        x = x.astype(jnp.float32)
        # Channels first, groups afterwards on the small array: no reshape of the image.
        mean = self._over_group(jnp.mean(x, axis=(1, 2)))
        centred = x - mean[:, None, None]
        # Two passes: E[x^2] - E[x]^2 cancels where the mean is large.
        variance = self._over_group(jnp.mean(jnp.square(centred), axis=(1, 2)))
        gain = jax.lax.rsqrt(variance + NORM_EPSILON) * gain
        return centred * gain[:, None, None] + bias

    def _over_group(self, per_channel):
        batch, channels = per_channel.shape
        size = channels // self.groups
        if size == 1:
            return per_channel
        mean = per_channel.reshape(batch, self.groups, size).mean(axis=-1)
        return jnp.repeat(mean, size, axis=-1)


class LayerNorm(nn.Module):
    """Layer normalisation of the last axis, biased variance, float32 in and out."""

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        gain = self.param("scale", initializers.ONES, (width,), jnp.float32)
        bias = self.param("bias", initializers.ZEROS, (width,), jnp.float32)
        x = x.astype(jnp.float32)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + NORM_EPSILON) * gain + bias


def timestep_embedding(
    timesteps: array_types.Timesteps, dim: int
) -> Float[array_types.Array, "b d"]:
    """Sinusoids [cos, sin] of the timesteps, float32 (B, dim); dim is even.

    Wavelengths rise geometrically from 2 pi to 10000 * 2 pi.
    """
    half = dim // 2
    exponents = -math.log(MAX_PERIOD) / half * jnp.arange(half, dtype=jnp.float32)
    angles = timesteps.astype(jnp.float32)[:, None] * jnp.exp(exponents)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def upsample(x: array_types.Image) -> Float[array_types.Array, "b h2 w2 c"]:
    """The image at twice its side, nearest neighbour."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(
        x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels)
    )
    return x.reshape(batch, 2 * height, 2 * width, channels)


def downsample(x: array_types.Image) -> Float[array_types.Array, "b h2 w2 c"]:
    """The image at half its side, mean of 2x2 boxes."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return x.mean(axis=(2, 4))


def dropout(
    x: array_types.Image, keys: array_types.PRNGKeys, drop_prob: float
) -> array_types.Image:
    """x with a share drop_prob of its entries zeroed and the others scaled up.

    One key per example: what an example loses does not depend on its neighbours, so
    neither on the mesh nor on gradient accumulation.
    """
    keep_prob = 1.0 - drop_prob
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, keep_prob, x.shape[1:]))(keys)
    return jnp.where(keep, x / keep_prob, jnp.zeros_like(x))
