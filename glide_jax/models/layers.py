"""Layers shared by all networks.

Parameters are float32. A layer computes in its `dtype`. Norms are in norms.py, the
programs of the 3x3 convolution in convolutions.py.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from glide_jax import array_types
from glide_jax.models import convolutions, initializers

MAX_PERIOD = 10000.0  # of the timestep embedding: Attention Is All You Need, 3.5


class Linear(nn.Module):
    """An affine map of the last axis; also the 1x1 convolution of an image."""

    features: int
    layer_init: initializers.LayerInit = initializers.torch_init
    use_bias: bool = True
    dtype: Any = jnp.float32
    precision: Any = None

    @nn.compact
    def __call__(self, *parts: Float[jax.Array, "... _"]) -> Float[jax.Array, "... d"]:
        """Maps one array, or several that are adjacent along the last axis."""
        widths = [x.shape[-1] for x in parts]
        kernel_init, bias_init = self.layer_init(sum(widths))
        shape = (sum(widths), self.features)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        edges = [sum(widths[:i]) for i in range(1, len(widths))]
        rows = jnp.split(kernel.astype(self.dtype), edges)
        products = [
            jnp.dot(x.astype(self.dtype), matrix, precision=self.precision)
            for x, matrix in zip(parts, rows, strict=True)
        ]
        y = functools.reduce(jnp.add, products)
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
        y = convolutions.conv3x3(
            x.astype(self.dtype), kernel.astype(self.dtype), self.precision
        )
        return y + bias.astype(self.dtype)


def timestep_embedding(
    timesteps: array_types.Timesteps | array_types.PerExample, dim: int
) -> array_types.Embedding:
    """Returns sinusoids [cos, sin] of the timesteps, float32 (B, dim).

    A student embeds its guidance scale in the same way.

    The wavelengths increase geometrically from 2 pi to 10000 * 2 pi.

    Args:
      timesteps: (B,).
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
