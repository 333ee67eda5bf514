"""An enlarged picture keeps the colours of the small one."""

import jax
import numpy as np

from glide_jax.data import transforms
from glide_jax.diffusion import low_res, respacing, sampling_loop


def _normal(seed, *shape):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def test_area_means_become_the_small_picture_and_detail_stays():
    picture, small = _normal(0, 2, 8, 12, 3), _normal(1, 2, 4, 6, 3)
    out = np.asarray(low_res.match_low_res(picture, small))
    means = out.reshape(2, 4, 2, 6, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(means, small, atol=1e-6)
    # Differences of neighbours within a block of 2 x 2 are the network's alone.
    for axis in (1, 2):
        before = np.diff(picture, axis=axis).take(range(0, 8, 2), axis)
        after = np.diff(out, axis=axis).take(range(0, 8, 2), axis)
        np.testing.assert_allclose(after, before, atol=1e-5)


def test_a_picture_that_fits_is_left_as_it_is():
    picture = np.tanh(_normal(0, 2, 8, 8, 3))
    small = np.stack([transforms.area_downsample(one, 2) for one in picture])
    out = low_res.match_low_res(picture, small)
    np.testing.assert_allclose(out, picture, atol=1e-6)


def test_sampling_under_it_ends_with_the_small_picture(image_keys):
    small = np.tanh(_normal(0, 2, 4, 4, 3)) / 2
    output = 0.1 * _normal(1, 2, 8, 8, 2 * 3)
    x_start = sampling_loop.sample_loop(
        lambda x_t, timesteps: output,
        respacing.respaced_tables("linear", 1000, "5"),
        _normal(2, 2, 8, 8, 3),
        image_keys(2),
        rule="ddim",
        denoised_fn=jax.tree_util.Partial(low_res.match_low_res, low_res=small),
        clip_denoised=False,
    )
    means = np.asarray(x_start).reshape(2, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    # Unclipped pixels reach 30 at first, and rounding with them.
    np.testing.assert_allclose(means, small, atol=1e-4)
