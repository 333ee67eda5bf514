"""Gradients of the norms, and of the CPU's convolution, equal automatic ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.models import convolutions, norms


def _normal(*shape, seed=0):
    values = np.random.RandomState(seed).standard_normal(shape)
    return jnp.asarray(values, jnp.float32)


def _plain_group_norm(parts, gain, bias, groups, silu):
    """The definition, on the concatenated parts."""
    x = jnp.concatenate(parts, axis=-1)
    batch, height, width, _channels = x.shape
    grouped = x.reshape(batch, height, width, groups, -1)
    mean = grouped.mean(axis=(1, 2, 4), keepdims=True)
    variance = grouped.var(axis=(1, 2, 4), keepdims=True)
    z = ((grouped - mean) / jnp.sqrt(variance + 1e-5)).reshape(x.shape)
    y = z * gain[:, None, None] + bias[:, None, None]
    return y * jax.nn.sigmoid(y) if silu else y


def _plain_layer_norm(x, gain, bias):
    mean = x.mean(axis=-1, keepdims=True)
    variance = x.var(axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-5) * gain + bias


def _values_and_gradients(function, *arguments):
    out, pull_back = jax.vjp(function, *arguments)
    return jax.tree.leaves((out, pull_back(_normal(*out.shape, seed=9))))


def _assert_equal(actual, expected, tolerance):
    for mine, reference in zip(actual, expected, strict=True):
        bound = tolerance * np.abs(reference).max()
        np.testing.assert_allclose(mine, reference, atol=bound)


# Groups of 5 channels: the second reaches from the first part into the second.
@pytest.mark.parametrize("widths", [(20,), (8, 12)])
@pytest.mark.parametrize("silu", [False, True])
def test_group_norm_and_its_gradients_follow_the_definition(widths, silu):
    parts = tuple(
        2 * _normal(3, 4, 6, width, seed=i) + i for i, width in enumerate(widths)
    )
    gain, bias = _normal(3, 20, seed=5), _normal(3, 20, seed=6)

    def ours(parts, gain, bias):
        return norms.group_norm(parts, gain, bias, 4, silu, jnp.float32)

    def plain(parts, gain, bias):
        return _plain_group_norm(parts, gain, bias, 4, silu)

    arguments = (parts, gain, bias)
    _assert_equal(
        _values_and_gradients(ours, *arguments),
        _values_and_gradients(plain, *arguments),
        1e-5,  # sums of 120 float32 numbers in another order
    )


def test_layer_norm_and_its_gradients_follow_the_definition():
    arguments = (3 * _normal(2, 5, 16) + 1, _normal(16, seed=1), _normal(16, seed=2))

    def ours(*arguments):
        return norms.layer_norm(*arguments, jnp.float32)

    _assert_equal(
        _values_and_gradients(ours, *arguments),
        _values_and_gradients(_plain_layer_norm, *arguments),
        1e-5,
    )


# float16 rounds 300 to 0.25; bfloat16 rounds 100 to 0.5.
@pytest.mark.parametrize(
    ("dtype", "mean", "deviation"),
    [(jnp.bfloat16, 100, 1.0), (jnp.float16, 300, 0.1), (jnp.float16, 1000, 0.3)],
)
def test_half_precision_statistics_do_not_cancel(dtype, mean, deviation):
    x = (deviation * _normal(2, 8, 8, 32) + mean).astype(dtype)
    gain, bias = jnp.ones((2, 32)), jnp.zeros((2, 32))
    expected = norms.group_norm(
        (x.astype(jnp.float32),), gain, bias, 4, False, jnp.float32
    )
    out = norms.group_norm((x,), gain, bias, 4, False, jnp.float32)
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)


# Fewer features than channels, as many, and more: each operand is unfolded once.
@pytest.mark.parametrize("features", [3, 8, 20])
def test_the_gradient_by_products_equals_xlas(features):
    x, gradient = _normal(2, 6, 10, 8), _normal(2, 6, 10, features, seed=1)
    kernel = _normal(3, 3, 8, features, seed=2)
    _, pull_back = jax.vjp(lambda k: convolutions.native_conv3x3(x, k), kernel)
    out = convolutions.kernel_gradient_by_products(x, gradient)
    # Sums of 120 float32 products in another order.
    np.testing.assert_allclose(out, pull_back(gradient)[0], atol=1e-4)


# A small image with many channels, a small one, and one of 2^14 numbers.
@pytest.mark.parametrize("shape", [(2, 2, 2, 16), (2, 8, 8, 4), (2, 32, 32, 16)])
def test_the_convolutions_gradients_equal_xlas(shape):
    arguments = _normal(*shape), _normal(3, 3, shape[-1], 5, seed=1)
    _assert_equal(
        _values_and_gradients(convolutions.conv3x3, *arguments),
        _values_and_gradients(convolutions.native_conv3x3, *arguments),
        1e-5,
    )


def test_a_program_for_another_platform_has_no_products():
    x, kernel = _normal(1, 32, 32, 16), _normal(3, 3, 16, 8)

    def gradient(x, kernel):
        return jax.grad(lambda k: jnp.sum(convolutions.conv3x3(x, k) ** 2))(kernel)

    traced = jax.jit(gradient).trace(x, kernel)
    programs = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "cuda", "tpu")
    }
    assert "dot_general" in programs["cpu"]
    assert "dot_general" not in programs["cuda"]
    assert "dot_general" not in programs["tpu"]
