"""Laws of dynamic thresholding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.diffusion import thresholding


def _normal(seed, *shape):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("quantile", [0.5, 0.995, 1.0])
def test_images_end_in_range_and_those_in_range_stay(quantile):
    images = np.stack([3 * _normal(0, 8, 8, 3), np.tanh(_normal(1, 8, 8, 3))])
    out = np.asarray(thresholding.dynamic_threshold(images, quantile))
    assert np.abs(out).max() <= 1
    np.testing.assert_array_equal(out[1], images[1])


def test_the_quantile_1_only_shrinks():
    images = 3 * _normal(0, 2, 8, 8, 3)
    out = thresholding.dynamic_threshold(images, 1)
    largest = np.abs(images).max(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(out, images / largest, rtol=1e-6)  # one division


def test_the_share_beyond_the_quantile_saturates():
    images = 3 * _normal(0, 2, 16, 16, 3)
    sample = jax.jit(thresholding.dynamic_threshold)
    for quantile in (0.6, 0.9):
        out = np.asarray(sample(images, jnp.float32(quantile)))
        saturated = (np.abs(out) == 1).mean(axis=(1, 2, 3))
        # One of 768 values to either side of the quantile.
        np.testing.assert_allclose(saturated, 1 - quantile, atol=2 / 768)
