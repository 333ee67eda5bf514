"""Laws of guidance; its golden runs are in test_samplers.py."""

import jax.numpy as jnp
import numpy as np

from glide_jax.diffusion import guidance, process, schedules


def _normal(seed, *shape):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def test_scale_1_is_the_conditional_output():
    cond, uncond = _normal(0, 2, 4, 4, 6), _normal(1, 2, 4, 4, 6)
    # uncond + (cond - uncond) rounds twice at magnitude 4.
    out = guidance.classifier_free(cond, uncond, 1.0)
    np.testing.assert_allclose(out, cond, atol=1e-6)


def test_scale_0_is_the_unconditional_eps_with_the_conditional_variance():
    cond, uncond = _normal(0, 2, 4, 4, 6), _normal(1, 2, 4, 4, 6)
    out = guidance.classifier_free(cond, uncond, 0.0)
    np.testing.assert_array_equal(out[..., :3], uncond[..., :3])
    np.testing.assert_array_equal(out[..., 3:], cond[..., 3:])


def test_a_zero_gradient_shifts_nothing():
    tables = process.make_tables(schedules.make_betas("linear", 1000))
    x_start, x_t = _normal(0, 2, 4, 4, 3), _normal(1, 2, 4, 4, 3)
    zero, t = np.zeros_like(x_t), np.array([5, 500], np.int32)
    np.testing.assert_array_equal(guidance.shift_mean(x_start, x_t, zero), x_start)
    shifted = guidance.shift_score(tables, x_start, x_t, t, zero)
    # x_start -> eps -> x_start through 1 / sqrt(A_500) of 3.6.
    np.testing.assert_allclose(shifted, x_start, atol=5e-6)


def test_the_two_shifts_move_an_image_the_same_way():
    tables = process.make_tables(schedules.make_betas("linear", 1000))
    x_start, x_t, gradient = (_normal(seed, 1, 4, 4, 3) for seed in range(3))
    t = np.array([100], np.int32)
    moved = guidance.shift_score(tables, x_start, x_t, t, gradient) - x_start
    assert np.all(np.sign(moved) == np.sign(gradient))


def test_the_similarity_gradient_is_scaled_and_per_image():
    x_t, target = _normal(0, 2, 4, 4, 3), _normal(1, 2, 4, 4, 3)

    def similarity(images):
        return -0.5 * jnp.sum((images - target) ** 2, axis=(1, 2, 3))

    gradient = guidance.similarity_gradient(similarity, x_t, 3.0)
    np.testing.assert_allclose(gradient, 3 * (target - x_t), rtol=1e-6)  # one rounding
