"""Known pixels stay known."""

import functools

import numpy as np
import pytest

from glide_jax.diffusion import inpainting, process, respacing, samplers, sampling_loop


def _normal(seed, *shape):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def test_projection_pins_known_pixels_and_leaves_the_rest():
    pred, image = _normal(0, 2, 4, 4, 3), _normal(1, 2, 4, 4, 3)
    mask = np.zeros((2, 4, 4, 1), np.float32)
    mask[:, :2] = 1
    out = inpainting.project(pred, image, mask)
    np.testing.assert_array_equal(out[:, :2], image[:, :2])
    np.testing.assert_array_equal(out[:, 2:], pred[:, 2:])


@pytest.mark.parametrize("rule", samplers.SAMPLERS)
def test_an_all_known_mask_returns_the_image(rule, image_keys):
    tables = respacing.respaced_tables("squaredcos_cap_v2", 1000, "5")
    image = np.clip(_normal(0, 2, 4, 4, 3), -1, 1)
    mask = np.ones((2, 4, 4, 1), np.float32)
    denoised_fn = functools.partial(
        inpainting.project, inpaint_image=image, inpaint_mask=mask
    )
    output = _normal(1, 2, 4, 4, 2 * 3)
    x_start = sampling_loop.sample_loop(
        lambda x_t, timesteps: output,
        tables,
        _normal(2, 2, 4, 4, 3),
        image_keys(2),
        rule=rule,
        denoised_fn=denoised_fn,
    )
    # The last step's coefficient of the image is 1 to float32 rounding.
    np.testing.assert_allclose(x_start, image, atol=1e-6)


def test_an_all_known_mask_returns_the_image_without_projection(image_keys):
    tables = respacing.respaced_tables("squaredcos_cap_v2", 1000, "5")
    image, keys = np.tanh(_normal(0, 2, 4, 4, 3)), image_keys(2)
    mask, output = np.ones((2, 4, 4, 1), np.float32), _normal(1, 2, 4, 4, 6)

    def after_step(x_prev, t):
        noise = sampling_loop.step_noise(keys, t, (4, 4, 3))
        return inpainting.renoise_known(tables, x_prev, t, image, mask, noise)

    x_start = sampling_loop.sample_loop(
        lambda x_t, timesteps: output,
        tables,
        _normal(2, 2, 4, 4, 3),
        keys,
        rule="ddpm",
        after_step=after_step,
    )
    np.testing.assert_array_equal(x_start, image)


def test_known_pixels_are_noised_to_the_level_that_the_step_reached():
    tables = respacing.respaced_tables("squaredcos_cap_v2", 1000, "8")
    x_prev, image, noise = (_normal(seed, 3, 4, 4, 3) for seed in range(3))
    mask = np.zeros((3, 4, 4, 1), np.float32)
    mask[:, :2], mask[:, 2] = 1, 0.5
    t = np.array([7, 3, 0], np.int32)
    out = inpainting.renoise_known(tables, x_prev, t, image, mask, noise)
    known = process.q_sample(tables, image, np.maximum(t - 1, 0), noise)
    known = np.where((t == 0)[:, None, None, None], image, known)
    # Here sqrt(1 - A) is taken of a float32 A near 1, in q_sample it is stored.
    np.testing.assert_allclose(out[:, :2], known[:, :2], atol=2e-5)
    np.testing.assert_allclose(out[:, 2], (known + x_prev)[:, 2] / 2, atol=2e-5)
    np.testing.assert_array_equal(out[:, 3], x_prev[:, 3])


@pytest.mark.parametrize("radius_px", [0, 1, 3])
def test_a_feathered_edge_rises_with_the_distance_to_the_unknown(radius_px):
    mask = np.ones((1, 12, 12, 1), np.float32)
    mask[0, 2:4, 5:7] = 0
    rows, columns = np.mgrid[:12, :12]
    # Chessboard distance to the hole.
    distance = np.maximum(
        np.maximum(2 - rows, rows - 3), np.maximum(5 - columns, columns - 6)
    ).clip(0)
    expected = np.minimum(distance / (radius_px + 1), 1).astype(np.float32)
    out = np.asarray(inpainting.feather(mask, radius_px))[0, ..., 0]
    np.testing.assert_allclose(out, expected, rtol=1e-6)  # one division
    np.testing.assert_array_equal(out[distance > radius_px], 1)
    np.testing.assert_array_equal(out[distance == 0], 0)


def test_a_soft_mask_is_never_feathered_upwards():
    mask = np.random.RandomState(0).uniform(size=(2, 8, 8, 1)).astype(np.float32)
    out = np.asarray(inpainting.feather(mask, 2))
    assert np.all(out <= mask * (1 + 1e-6))
    np.testing.assert_array_equal(inpainting.feather(mask * 0 + 1, 2), mask * 0 + 1)
