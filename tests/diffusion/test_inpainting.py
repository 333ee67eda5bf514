"""Known pixels stay known."""

import functools

import numpy as np
import pytest

from glide_jax.diffusion import inpainting, respacing, samplers


def _normal(seed, *shape):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def test_projection_pins_known_pixels_and_leaves_the_rest():
    pred, image = _normal(0, 2, 4, 4, 3), _normal(1, 2, 4, 4, 3)
    mask = np.zeros((2, 4, 4, 1), np.float32)
    mask[:, :2] = 1
    out = inpainting.project(pred, image, mask)
    np.testing.assert_array_equal(out[:, :2], image[:, :2])
    np.testing.assert_array_equal(out[:, 2:], pred[:, 2:])


@pytest.mark.parametrize("rule", ["ddpm", "ddim"])
def test_an_all_known_mask_returns_the_image(rule, image_keys):
    tables = respacing.respaced_tables("squaredcos_cap_v2", 1000, "5")
    image = np.clip(_normal(0, 2, 4, 4, 3), -1, 1)
    mask = np.ones((2, 4, 4, 1), np.float32)
    denoised_fn = functools.partial(
        inpainting.project, inpaint_image=image, inpaint_mask=mask
    )
    output = _normal(1, 2, 4, 4, 2 * 3)
    x_start = samplers.sample_loop(
        lambda x_t, timesteps: output,
        tables,
        _normal(2, 2, 4, 4, 3),
        image_keys(2),
        rule=rule,
        denoised_fn=denoised_fn,
    )
    # The last step's coefficient of the image is 1 to float32 rounding.
    np.testing.assert_allclose(x_start, image, atol=1e-6)
