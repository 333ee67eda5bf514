"""The InceptionV3 that defines FID.

The network of "Rethinking the Inception Architecture" (arXiv 1512.00567), in the
TensorFlow graph of December 2015 from which the published PyTorch weights come: 1008
classes, average pooling that excludes padding, and maximum pooling instead of average
pooling in the last block. Batch norms are folded into the preceding convolutions.

Outputs:
  pool: the mean over the last feature map, 2048 numbers; for FID, KID, precision and
    recall.
  spatial: the first 7 channels of Mixed_6d's 1x1 branch, 17 x 17 x 7 numbers in this
    order; for sFID. The graph calls it mixed_6/conv.
  logits: pool times the last layer's matrix, without its bias; for the Inception Score
    as OpenAI's evaluator computes it.

There are two ways to resize images, both bilinear without antialiasing. Features of
one must not be compared with features of the other:
  pytorch_fid: aligned at pixel centres, then x / 127.5 - 1, as in pytorch-fid, which
    published the weights.
  tf1: aligned at pixel corners, then (x - 128) / 128, as in the graph itself, and so in
    OpenAI's evaluator and its reference batches. An image of 64 pixels is shifted 1.8
    of 299 pixels to the left and up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, UInt8

from glide_jax import array_types
from glide_jax.models import initializers

PX = 299  # side that the network reads
NUM_CLASSES = 1008
SPATIAL_CHANNELS = 7  # published, of sFID (arXiv 2103.03841)
POOL, SPATIAL = 2048, 17 * 17 * SPATIAL_CHANNELS


class InceptionFeatures(NamedTuple):
    """The outputs for n images, float32.

    Attributes:
      pool: (n, 2048).
      spatial: (n, 2023).
      logits: (n, 1008).
    """

    pool: Float[jax.Array, "n 2048"]
    spatial: Float[jax.Array, "n 2023"]
    logits: Float[jax.Array, "n 1008"]


def extract(
    params: array_types.Params,
    pixels: UInt8[array_types.Array, "n h w 3"],
    resizing: str,
) -> InceptionFeatures:
    """Computes the features of 8-bit RGB images of any size; traceable.

    Args:
      params: as `abstract_params` describes them.
      pixels: images.
      resizing: a key of RESIZING, see the module's documentation.
    """
    return apply(params, RESIZING[resizing](pixels))


def apply(
    params: array_types.Params, images: Float[array_types.Array, "n 299 299 3"]
) -> InceptionFeatures:
    """Computes the features of resized images in [-1, 1]."""
    features: Any = _Inception().apply({"params": params}, jnp.asarray(images))
    return features


def abstract_params() -> array_types.Params:
    """Returns shapes and dtypes of the parameters, without computing them."""
    image = jax.ShapeDtypeStruct((1, PX, PX, 3), jnp.float32)
    described = jax.eval_shape(_Inception().init, jax.random.key(0), image)
    return nn.meta.unbox(described)["params"]


def _resized_by_centres(pixels: array_types.Array) -> jax.Array:
    shape = (pixels.shape[0], PX, PX, 3)
    images = jnp.asarray(pixels, jnp.float32) / 127.5 - 1
    return jax.image.resize(images, shape, "linear", antialias=False)


def _resized_by_corners(pixels: array_types.Array) -> jax.Array:
    rows, columns = (_corner_weights(side) for side in pixels.shape[1:3])
    images = jnp.asarray(pixels, jnp.float32) / 128 - 1
    return jnp.einsum("nyxc,hy,wx->nhwc", images, rows, columns)


def _corner_weights(side: int) -> Float[np.ndarray, "299 side"]:
    """Returns interpolation weights; row i samples position i * side / 299."""
    positions = np.arange(PX) * (side / PX)
    low = positions.astype(int)
    weights, rows = np.zeros((PX, side), np.float32), np.arange(PX)
    weights[rows, low] = 1 - (positions - low)
    weights[rows, np.minimum(low + 1, side - 1)] += positions - low  # edge is repeated
    return weights


RESIZING = {"pytorch_fid": _resized_by_centres, "tf1": _resized_by_corners}


class _Inception(nn.Module):
    """Maps images in [-1, 1] (B, 299, 299, 3) to InceptionFeatures."""

    @nn.compact
    def __call__(self, x: Float[jax.Array, "b 299 299 3"]) -> InceptionFeatures:
        h, first = _run_steps(STEM, x), {}
        for name, branches in BLOCKS.items():
            first[name], h = _Block(branches, name=name)(h)
        spatial = first["Mixed_6d"][..., :SPATIAL_CHANNELS]
        pool = jnp.mean(h, axis=(1, 2))
        kernel_init, _ = initializers.torch_init(POOL)
        kernel = self.param("fc", kernel_init, (POOL, NUM_CLASSES), jnp.float32)
        return InceptionFeatures(
            pool, spatial.reshape(len(h), SPATIAL), jnp.dot(pool, kernel)
        )


class _Block(nn.Module):
    """Returns the first branch, and the concatenation of all branches."""

    branches: Branches

    @nn.compact
    def __call__(
        self, x: array_types.FeatureMap
    ) -> tuple[Float[jax.Array, "b h2 w2 c2"], Float[jax.Array, "b h2 w2 c3"]]:
        outputs = [_run_steps(steps, x) for steps in self.branches]
        return outputs[0], jnp.concatenate(outputs, axis=-1)


class _ConvRelu(nn.Module):
    spec: Conv

    @nn.compact
    def __call__(self, x: array_types.FeatureMap) -> Float[jax.Array, "b h2 w2 c2"]:
        height, width = self.spec.kernel
        kernel_init, bias_init = initializers.torch_init(height * width * x.shape[-1])
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


def _run_steps(steps: tuple[Step, ...], x: jax.Array) -> jax.Array:
    """Applies the steps in order; called in a module's compact method."""
    for step in steps:
        if isinstance(step, Conv):
            x = _ConvRelu(step, name=step.name)(x)
        elif isinstance(step, Fork):
            arms = [_ConvRelu(conv, name=conv.name)(x) for conv in step.convs]
            x = jnp.concatenate(arms, axis=-1)
        else:
            x = _pooled(step, x)
    return x


def _pooled(pool: Pool, x: jax.Array) -> jax.Array:
    padding = "SAME" if pool.stride == 1 else "VALID"
    window, strides = (3, 3), (pool.stride, pool.stride)
    if pool.kind == "max":
        return nn.max_pool(x, window, strides, padding)
    return nn.avg_pool(x, window, strides, padding, count_include_pad=False)


class Conv(NamedTuple):
    """A convolution with its folded batch norm, then ReLU.

    Attributes:
      name: within its block, as in the published file.
      channels: of the output.
      kernel: height and width.
      stride: 1 or 2.
      padded: whether zero padding preserves the side.
    """

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True


class Pool(NamedTuple):
    """Mean or maximum of 3x3 pixels; with stride 2 without padding."""

    kind: str
    stride: int = 1


class Fork(NamedTuple):
    """Convolutions of the same input, their outputs concatenated."""

    convs: tuple[Conv, ...]


Step = Conv | Pool | Fork
Branches = tuple[tuple[Step, ...], ...]  # in parallel; the steps of each in order

_MEAN, _MAX, _HALVE = Pool("mean"), Pool("max"), Pool("max", stride=2)
_ROW, _COLUMN = (1, 7), (7, 1)


def _reduction(name: str, channels: int) -> Conv:
    return Conv(name, channels, (3, 3), stride=2, padded=False)


def _block_a(pooled: int) -> Branches:
    """A block at 35 x 35."""
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        (
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3)),
        ),
        (_MEAN, Conv("branch_pool", pooled)),
    )


def _block_c(narrow: int) -> Branches:
    """A block at 17 x 17, its 7x7 convolutions factored into rows and columns."""
    return (
        (Conv("branch1x1", 192),),
        (
            Conv("branch7x7_1", narrow),
            Conv("branch7x7_2", narrow, _ROW),
            Conv("branch7x7_3", 192, _COLUMN),
        ),
        (
            Conv("branch7x7dbl_1", narrow),
            Conv("branch7x7dbl_2", narrow, _COLUMN),
            Conv("branch7x7dbl_3", narrow, _ROW),
            Conv("branch7x7dbl_4", narrow, _COLUMN),
            Conv("branch7x7dbl_5", 192, _ROW),
        ),
        (_MEAN, Conv("branch_pool", 192)),
    )


def _block_e(pool: Pool) -> Branches:
    """A block at 8 x 8."""

    def fork(left: str, right: str) -> Fork:
        return Fork((Conv(left, 384, (1, 3)), Conv(right, 384, (3, 1))))

    return (
        (Conv("branch1x1", 320),),
        (Conv("branch3x3_1", 384), fork("branch3x3_2a", "branch3x3_2b")),
        (
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            fork("branch3x3dbl_3a", "branch3x3dbl_3b"),
        ),
        (pool, Conv("branch_pool", 192)),
    )


# The network and the conversion of its weights use these tables. Names are those of the
# published PyTorch file.
STEM: tuple[Step, ...] = (
    Conv("Conv2d_1a_3x3", 32, (3, 3), stride=2, padded=False),
    Conv("Conv2d_2a_3x3", 32, (3, 3), padded=False),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    _HALVE,
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), padded=False),
    _HALVE,
)
BLOCKS: dict[str, Branches] = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": (
        (_reduction("branch3x3", 384),),
        (
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            _reduction("branch3x3dbl_3", 96),
        ),
        (_HALVE,),
    ),
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": (
        (Conv("branch3x3_1", 192), _reduction("branch3x3_2", 320)),
        (
            Conv("branch7x7x3_1", 192),
            Conv("branch7x7x3_2", 192, _ROW),
            Conv("branch7x7x3_3", 192, _COLUMN),
            _reduction("branch7x7x3_4", 192),
        ),
        (_HALVE,),
    ),
    "Mixed_7b": _block_e(_MEAN),
    "Mixed_7c": _block_e(_MAX),
}
