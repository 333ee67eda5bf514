"""Properties of single layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.models import attention, convolutions, layers, norms


def _normal(*shape, seed=0):
    values = np.random.RandomState(seed).standard_normal(shape)
    return jnp.asarray(values, jnp.float32)


def _group_norm(x, groups):
    """In float64, by the definition."""
    batch, height, width, _ = x.shape
    grouped = np.asarray(x, np.float64).reshape(batch, height * width, groups, -1)
    mean = grouped.mean(axis=(1, 3), keepdims=True)
    variance = grouped.var(axis=(1, 3), keepdims=True)
    normalised = (grouped - mean) / np.sqrt(variance + 1e-5)
    return normalised.reshape(x.shape)


def _apply_norm(norm, x):
    """The norm with gain 1 and bias 0."""
    params = {"scale": np.ones(x.shape[-1]), "bias": np.zeros(x.shape[-1])}
    return norm.apply({"params": params}, x)


@pytest.mark.parametrize("channels", [32, 96])
def test_group_norm_follows_its_definition_far_from_zero(channels):
    # A mean of 100 deviations: E[x^2] - E[x]^2 would keep two digits of the variance.
    x = _normal(2, 4, 4, channels) + 100
    expected = _group_norm(x, 32)
    # float32 holds 100 + 1 to 7.6e-6.
    out = _apply_norm(norms.GroupNorm(32), x)
    np.testing.assert_allclose(out, expected, atol=1e-4)


@pytest.mark.parametrize("norm", [norms.GroupNorm(32), norms.LayerNorm()])
def test_norms_return_float32_for_any_dtype(norm):
    x = jnp.ones((2, 4, 4, 32), jnp.bfloat16)
    assert _apply_norm(norm, x).dtype == jnp.float32


def test_layer_norm_has_zero_mean_and_unit_variance():
    out = _apply_norm(norms.LayerNorm(), 3 * _normal(2, 5, 64) + 1)
    np.testing.assert_allclose(np.mean(out, axis=-1), 0, atol=1e-6)
    # The epsilon of 1e-5 against a variance of 9.
    np.testing.assert_allclose(np.var(out, axis=-1), 1, atol=1e-5)


def test_downsample_inverts_upsample():
    x = _normal(2, 4, 4, 3)
    np.testing.assert_array_equal(layers.downsample(layers.upsample(x)), x)


def test_upsample_repeats_pixels_and_not_channels():
    x = jnp.arange(8, dtype=jnp.float32).reshape(1, 2, 2, 2)
    expected = x.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(layers.upsample(x), expected)


def test_dropout_keeps_the_mean_and_drops_the_stated_share():
    keys = jax.random.split(jax.random.key(0), 4)
    out = np.asarray(layers.dropout(jnp.ones((4, 32, 32, 16)), keys, 0.3))
    # 65536 draws: a standard deviation of 0.0018.
    assert np.mean(out == 0) == pytest.approx(0.3, abs=0.01)
    assert out.mean() == pytest.approx(1.0, abs=0.015)
    assert not np.array_equal(out[0], out[1])


def test_masked_keys_do_not_affect_the_result():
    queries, keys, values = (_normal(2, 5, 2, 8, seed=seed) for seed in range(3))
    mask = np.tri(5, dtype=bool)
    before = attention.xla_attention(queries, keys, values, mask)
    keys, values = keys.at[:, 3:].set(7.0), values.at[:, 3:].set(-7.0)
    after = attention.xla_attention(queries, keys, values, mask)
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert not np.allclose(before[:, 3:], after[:, 3:])


@pytest.mark.parametrize("shape", [(2, 4, 4, 32), (1, 2, 8, 16), (3, 8, 8, 4)])
def test_the_unfolded_convolution_equals_xlas(shape):
    x, kernel = _normal(*shape), _normal(3, 3, shape[-1], 5, seed=1)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    out = convolutions.unfolded_conv3x3(x, kernel)
    # Sums of up to 288 float32 products in another order.
    np.testing.assert_allclose(out, expected, atol=2e-5)


@pytest.mark.parametrize(("channels", "unfolded"), [(32, True), (31, False)])
def test_cpus_unfold_images_of_fewer_pixels_than_channels(channels, unfolded):
    x, kernel = _normal(2, 4, 4, channels), _normal(3, 3, channels, 8)
    program = jax.jit(convolutions.conv3x3).lower(x, kernel).as_text()
    assert ("stablehlo.convolution" not in program) == unfolded
