"""What does the InceptionV3 that FID is defined by make of a picture?

The network of "Rethinking the Inception Architecture" (arXiv 1512.00567) as the graph
of December 2015 has it, from which the published PyTorch weights come: 1008 classes,
averages over the pixels of the picture alone (padding does not count), and a maximum in
place of the average in the last block. Batch norms are folded into the convolutions
before them, which is all that they are at evaluation.

Read here are
  pool     the mean over the last feature map, 2048 numbers: FID, KID, precision, recall
  spatial  the first 7 channels of Mixed_6d's 1x1 branch, 17 x 17 x 7 numbers in this
           order: sFID. The graph calls it mixed_6/conv.
  logits   pool times the last layer's matrix, without its bias: the Inception Score as
           OpenAI's evaluator computes it.

Its users resize pictures in one of two ways, both bilinear and without a filter against
aliasing, and features of one must not be compared with those of the other:
  pytorch_fid  between the centres of pixels, then x / 127.5 - 1: as in pytorch-fid,
               which published the weights
  tf1          between their corners, then (x - 128) / 128: as in the graph itself, so
               in OpenAI's evaluator and its reference batches. A picture of 64 pixels
               lies 1.8 of 299 pixels further left and up.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, UInt8

from glide_jax import shapes
from glide_jax.models import inception_layout as layout
from glide_jax.models import initial

PX = 299  # side that the network reads
NUM_CLASSES = 1008
SPATIAL_CHANNELS = 7  # published, of sFID (arXiv 2103.03841)
POOL, SPATIAL = 2048, 17 * 17 * SPATIAL_CHANNELS


class Seen(NamedTuple):
    """What the network makes of n pictures, float32.

    Attributes:
      pool: (n, 2048).
      spatial: (n, 2023).
      logits: (n, 1008).
    """

    pool: Float[jax.Array, "n 2048"]
    spatial: Float[jax.Array, "n 2023"]
    logits: Float[jax.Array, "n 1008"]


def look(
    params: shapes.Params, pixels: UInt8[shapes.Array, "n h w 3"], resizing: str
) -> Seen:
    """Features of 8-bit RGB pictures of any size; may be jitted.

    `resizing` is one of RESIZING; the module's text says what they do.
    """
    return see(params, RESIZING[resizing](pixels))


def see(params: shapes.Params, images: Float[shapes.Array, "n 299 299 3"]) -> Seen:
    """Features of pictures as the network reads them, in [-1, 1]."""
    return _Inception().apply({"params": params}, images)


def abstract_params() -> shapes.Params:
    """Shapes and dtypes of the parameters, without computing any."""
    picture = jax.ShapeDtypeStruct((1, PX, PX, 3), jnp.float32)
    described = jax.eval_shape(_Inception().init, jax.random.key(0), picture)
    return nn.meta.unbox(described)["params"]


def _resized_by_centres(pixels):
    shape = (pixels.shape[0], PX, PX, 3)
    images = jnp.asarray(pixels, jnp.float32) / 127.5 - 1
    return jax.image.resize(images, shape, "linear", antialias=False)


def _resized_by_corners(pixels):
    rows, columns = (_corner_weights(side) for side in pixels.shape[1:3])
    images = jnp.asarray(pixels, jnp.float32) / 128 - 1
    return jnp.einsum("nyxc,hy,wx->nhwc", images, rows, columns)


def _corner_weights(side):
    """(299, side): row i is the picture at position i * side / 299."""
    positions = np.arange(PX) * (side / PX)
    low = positions.astype(int)
    weights, rows = np.zeros((PX, side), np.float32), np.arange(PX)
    weights[rows, low] = 1 - (positions - low)
    weights[rows, np.minimum(low + 1, side - 1)] += positions - low  # the edge goes on
    return weights


RESIZING = {"pytorch_fid": _resized_by_centres, "tf1": _resized_by_corners}


class _Inception(nn.Module):
    """Pictures in [-1, 1] (B, 299, 299, 3) -> Seen."""

    @nn.compact
    def __call__(self, x):
        x = _walk(layout.STEM, x)
        for name, branches in layout.BLOCKS.items():
            if name == "Mixed_6d":
                first, x = _Block(branches, name=name)(x)
                spatial = first[..., :SPATIAL_CHANNELS]
            else:
                _, x = _Block(branches, name=name)(x)
        pool = jnp.mean(x, axis=(1, 2))
        kernel_init, _ = initial.torch_init(POOL)
        kernel = self.param("fc", kernel_init, (POOL, NUM_CLASSES), jnp.float32)
        return Seen(pool, spatial.reshape(len(x), SPATIAL), jnp.dot(pool, kernel))


class _Block(nn.Module):
    """(B, H, W, C) -> the first branch, and all branches beside each other."""

    branches: layout.Branches

    @nn.compact
    def __call__(self, x):
        found = [_walk(steps, x) for steps in self.branches]
        return found[0], jnp.concatenate(found, axis=-1)


class _ConvRelu(nn.Module):
    spec: layout.Conv

    @nn.compact
    def __call__(self, x):
        height, width = self.spec.kernel
        kernel_init, bias_init = initial.torch_init(height * width * x.shape[-1])
        shape = (height, width, x.shape[-1], self.spec.channels)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        bias = self.param("bias", bias_init, shape[-1:], jnp.float32)
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(self.spec.stride, self.spec.stride),
            padding="SAME" if self.spec.padded else "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return nn.relu(y + bias)


def _walk(steps, x):
    """The steps one after the other, inside a module's compact call."""
    for step in steps:
        if isinstance(step, layout.Conv):
            x = _ConvRelu(step, name=step.name)(x)
        elif isinstance(step, layout.Fork):
            arms = [_ConvRelu(conv, name=conv.name)(x) for conv in step.convs]
            x = jnp.concatenate(arms, axis=-1)
        else:
            x = _pooled(step, x)
    return x


def _pooled(pool, x):
    padding = "SAME" if pool.stride == 1 else "VALID"
    window, strides = (3, 3), (pool.stride, pool.stride)
    if pool.kind == "max":
        return nn.max_pool(x, window, strides, padding)
    return nn.avg_pool(x, window, strides, padding, count_include_pad=False)
