"""The 3x3 convolution, by the fastest program for platform and shape.

| platform | part            | program                      | used for                 |
|----------|-----------------|------------------------------|--------------------------|
| cpu      | all             | a product of unfolded pixels | fewer pixels than inputs |
| cpu      | kernel gradient | three products               | 2^14 inputs an image     |
| any      | all             | XLA's convolution            | everything else          |

The platform is that of the compiled program, and not of the machine that traces it: a
program may be compiled or exported for chips that are not present.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from glide_jax import array_types

Kernel = Float[array_types.Array, "3 3 c features"]
Output = Float[jax.Array, "b h w features"]
CONVOLUTION = "convolution"  # name of the result, for policies of rematerialisation
# XLA's gradient of the kernel on a CPU is a convolution whose kernel is the image. For
# inputs of this many numbers an image, three matrix products are up to 4 times faster.
PRODUCTS_MIN_SIZE = 2**14


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv3x3(x: array_types.FeatureMap, kernel: Kernel, precision: Any = None) -> Output:
    """Returns the 3x3 convolution, stride 1, zero padding.

    It has a gradient of its own and no forward-mode derivative.

    Args:
      x: (B, H, W, C).
      kernel: (3, 3, C, features), of x's type.
      precision: of the products, as in `jax.lax`.
    """
    if not _is_unfolded(x.shape):
        return native_conv3x3(x, kernel, precision)
    y = jax.lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(unfolded_conv3x3, precision=precision),
        default=functools.partial(native_conv3x3, precision=precision),
    )
    return checkpoint_name(y, CONVOLUTION)


def _conv3x3_forward(
    x: jax.Array, kernel: jax.Array, precision: Any
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv3x3(x, kernel, precision), (x, kernel)


def _conv3x3_backward(
    precision: Any, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    native = functools.partial(_gradients, native_conv3x3, precision)
    if _is_unfolded(x.shape):
        unfolded = functools.partial(_gradients, unfolded_conv3x3, precision)
        return jax.lax.platform_dependent(
            x, kernel, gradient, cpu=unfolded, default=native
        )
    if math.prod(x.shape[1:]) < PRODUCTS_MIN_SIZE:
        return native(x, kernel, gradient)
    _, by_x = jax.vjp(lambda x: native_conv3x3(x, kernel, precision), x)
    by_kernel = jax.lax.platform_dependent(
        x,
        kernel,
        gradient,
        cpu=functools.partial(_kernel_gradient_by_products, precision),
        default=lambda *operands: native(*operands)[1],
    )
    return by_x(gradient)[0], by_kernel


conv3x3.defvjp(_conv3x3_forward, _conv3x3_backward)


def native_conv3x3(
    x: array_types.FeatureMap, kernel: Kernel, precision: Any = None
) -> Output:
    """Returns the 3x3 convolution by XLA's instruction."""
    return jax.lax.conv_general_dilated(
        x,
        jnp.asarray(kernel),
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def unfolded_conv3x3(
    x: array_types.FeatureMap, kernel: Kernel, precision: Any = None
) -> Output:
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


def kernel_gradient_by_products(
    x: array_types.FeatureMap, gradient: Output, precision: Any = None
) -> Float[jax.Array, "3 3 c features"]:
    """Returns the gradient of the kernel as three matrix products, one for each row.

    The operand with fewer channels is unfolded over the columns of the kernel:

        d kernel[r, s] = sum over pixels (i, j) of x[i + r - 1, j + s - 1]^T g[i, j]
                       = sum over pixels (i, j) of x[i, j]^T g[i + 1 - r, j + 1 - s]

    Args:
      x: input of the convolution, (B, H, W, C).
      gradient: g, of the convolution's output, (B, H, W, features).
      precision: of the products, as in `jax.lax`.
    """
    channels, features = x.shape[-1], gradient.shape[-1]
    product = functools.partial(jnp.dot, precision=precision)
    if channels <= features:
        flat = gradient.reshape(-1, features)
        rows = [
            product(shifted.reshape(-1, 3 * channels).T, flat)
            for shifted in _unfold_columns(x)
        ]
        return jnp.stack(rows).reshape(3, 3, channels, features)
    flat = x.reshape(-1, channels).T
    rows = [
        product(flat, shifted.reshape(-1, 3 * features))
        for shifted in _unfold_columns(gradient)
    ]
    by_shift = jnp.stack(rows).reshape(3, channels, 3, features)
    # The gradient moves against the image, so the shifts are in reverse order.
    return by_shift.transpose(0, 2, 1, 3)[::-1, ::-1]


def _unfold_columns(x: jax.Array) -> list[jax.Array]:
    """Returns arrays (B, H, W, 3 * C) for rows -1, 0 and 1; channels by column."""
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    columns = [padded[:, :, column : column + width] for column in range(3)]
    unfolded = jnp.concatenate(columns, axis=-1)
    return [unfolded[:, row : row + height] for row in range(3)]


def _kernel_gradient_by_products(
    precision: Any, x: jax.Array, kernel: jax.Array, gradient: jax.Array
) -> jax.Array:
    del kernel  # the native gradient needs its shape
    return kernel_gradient_by_products(x, gradient, precision)


def _gradients(
    function: Any,
    precision: Any,
    x: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    _, pull_back = jax.vjp(lambda x, kernel: function(x, kernel, precision), x, kernel)
    return pull_back(gradient)


def _is_unfolded(shape: tuple[Any, ...]) -> bool:
    """Whether a CPU uses the unfolded product, where it takes half the time.

    XLA's convolution on a CPU is slow if the kernel is larger than the image, as at the
    bottom of a released U-Net. A symbolic batch size belongs to an exported program.
    """
    batch, height, width, channels = shape
    return isinstance(batch, int) and batch * height * width <= channels
