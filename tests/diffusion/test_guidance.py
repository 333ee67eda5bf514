"""Laws of guidance; its golden runs are in test_samplers.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.diffusion import guidance, process, respacing, sampling_loop, schedules


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


def test_the_interval_holds_both_its_ends_and_may_be_empty():
    timesteps = np.array([0, 199, 200, 500, 800, 801, 999], np.int32)
    inside = guidance.is_active(timesteps, 200, jnp.int32(800))
    np.testing.assert_array_equal(
        inside, [False, False, True, True, True, False, False]
    )
    assert guidance.is_active(timesteps, 0, 999).all()
    assert not guidance.is_active(timesteps, 1, 0).any()


def test_guidance_outside_its_interval_is_no_guidance(image_keys):
    tables = respacing.respaced_tables("squaredcos_cap_v2", 1000, "8")
    weights = 0.3 * _normal(7, 2, 3, 6)

    @jax.jit
    def sample(first, last, scale):
        def denoise(x_t, timesteps):
            cond, uncond = (jnp.tanh(x_t @ one) for one in weights)
            is_active = guidance.is_active(timesteps, first, last)
            guided = guidance.classifier_free(cond, uncond, scale)
            return jnp.where(is_active[:, None, None, None], guided, cond)

        x_init = _normal(0, 2, 4, 4, 3)
        return sampling_loop.sample_loop(
            denoise, tables, x_init, image_keys(2), rule="ddim"
        )

    plain = sample(0, 999, 1.0)
    # uncond + 1 (cond - uncond) rounds, and the noisiest steps magnify it.
    np.testing.assert_allclose(sample(1, 0, 4.0), plain, atol=1e-4)
    assert np.abs(sample(0, 999, 4.0) - plain).max() > 0.1
    assert np.abs(sample(0, 500, 4.0) - sample(0, 999, 4.0)).max() > 0.01


def test_rescaling_by_a_share_of_0_changes_nothing():
    guided, cond = 3 * _normal(0, 2, 4, 4, 6), _normal(1, 2, 4, 4, 6)
    out = guidance.rescale(guided, cond, 0.0)
    np.testing.assert_array_equal(out, guided)


def test_rescaling_wholly_gives_eps_the_conditional_spread():
    guided, cond = 3 * _normal(0, 2, 4, 4, 6), _normal(1, 2, 4, 4, 6)
    out = np.asarray(guidance.rescale(guided, cond, jnp.float32(1.0)))
    spread = out[..., :3].std(axis=(1, 2, 3)) / cond[..., :3].std(axis=(1, 2, 3))
    np.testing.assert_allclose(spread, 1, rtol=1e-6)
    np.testing.assert_array_equal(out[..., 3:], guided[..., 3:])
    half = np.asarray(guidance.rescale(guided, cond, 0.5))
    np.testing.assert_allclose(half, (out + guided) / 2, atol=1e-6)


def test_rescaling_an_eps_of_zero_leaves_it_zero():
    zero = np.zeros((1, 4, 4, 6), np.float32)
    out = guidance.rescale(zero, _normal(0, 1, 4, 4, 6), 0.7)
    np.testing.assert_array_equal(out, zero)


def test_a_blend_of_one_caption_is_that_caption():
    outputs = _normal(0, 1, 2, 4, 4, 6)
    out = guidance.blend(outputs, np.array([0.3], np.float32))
    np.testing.assert_array_equal(out, outputs[0])


@pytest.mark.parametrize("shape", [(3,), (3, 2)])
def test_a_blend_of_equal_captions_is_the_caption(shape):
    one = _normal(0, 2, 4, 4, 6)
    weights = np.abs(_normal(1, *shape))
    out = guidance.blend(np.stack([one, one, one]), weights)
    # Three weights in float32 add up to 1 only to rounding.
    np.testing.assert_allclose(out, one, rtol=1e-6)


def test_a_blend_weighs_each_image_by_its_own_share():
    outputs = _normal(0, 2, 2, 4, 4, 6)
    weights = np.array([[3.0, 0.0], [1.0, 5.0]], np.float32)
    out = guidance.blend(outputs, weights)
    expected = 0.75 * outputs[0, 0] + 0.25 * outputs[1, 0]
    np.testing.assert_allclose(out[0], expected, atol=1e-6)
    np.testing.assert_array_equal(out[1], outputs[1, 1])
