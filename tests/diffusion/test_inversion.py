"""An inverted image comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.diffusion import respacing, sampling_loop, single_step

DATA = {"gaussian": ((0.2,), 0.4), "mixture": ((-0.6, 0.5), 0.15)}


@pytest.fixture(scope="module")
def tables():
    return respacing.respaced_tables("squaredcos_cap_v2", 1000, "100")


def _images(means, std):
    random = np.random.RandomState(0)
    images = random.choice(means, (4, 8, 8, 3)) + std * random.standard_normal(
        (4, 8, 8, 3)
    )
    return np.clip(images, -1, 1).astype(np.float32)


@pytest.mark.parametrize("data", DATA)
def test_100_steps_up_and_100_down_return_the_image(
    tables, mixture_denoiser, image_keys, data
):
    denoise = mixture_denoiser("squaredcos_cap_v2", *DATA[data])
    images = _images(*DATA[data])

    @jax.jit
    def round_trip(num_steps):
        x_t = sampling_loop.invert(denoise, tables, images, num_steps=num_steps)
        back = sampling_loop.sample_loop(
            denoise, tables, x_t, image_keys(4), rule="ddim", num_steps=num_steps
        )
        return x_t, back

    for num_steps in (100, 60):
        x_t, back = round_trip(jnp.int32(num_steps))
        # Both walks are of first order in a step of 1 / 100.
        assert np.abs(back - images).mean() < 0.02
        assert np.abs(x_t - images).mean() > 0.2  # it did go somewhere
    x_t, back = round_trip(jnp.int32(0))
    np.testing.assert_array_equal(x_t, images)
    np.testing.assert_array_equal(back, images)


def test_inversion_ends_in_noise(tables, mixture_denoiser):
    """The mixture's own ODE carries its pixels to a standard normal."""
    denoise = mixture_denoiser("squaredcos_cap_v2")
    x_t = np.asarray(sampling_loop.invert(denoise, tables, _images(*DATA["mixture"])))
    # 768 draws: 0.036 of a deviation for the mean; Euler's steps cost the rest.
    assert abs(x_t.mean()) < 0.15
    assert abs(x_t.std() - 1) < 0.15


def test_inversion_is_the_reversed_step_from_index_0_up(tables, mixture_denoiser):
    denoise = mixture_denoiser("squaredcos_cap_v2")
    x_t = images = _images(*DATA["mixture"])
    for index in range(4):
        t = np.full(4, index, np.int32)
        output = denoise(x_t, tables.timesteps[t])
        x_t = single_step.ddim_reverse_step(tables, output, x_t, t).x_next
    out = sampling_loop.invert(denoise, tables, images, num_steps=5)
    np.testing.assert_allclose(out, x_t, atol=1e-5)  # fused differently


def test_clipping_keeps_an_overshooting_image_near_the_noise_that_samplers_know(
    tables, mixture_denoiser
):
    """Estimates beyond [-1, 1], as guidance makes them, would swell x_t."""
    plain = mixture_denoiser("squaredcos_cap_v2", (-0.95, 0.9), 0.1)

    def overshooting(x_t, timesteps):
        return 1.1 * plain(x_t, timesteps)

    images = _images((-0.95, 0.9), 0.1)
    clipped, free = (
        sampling_loop.invert(overshooting, tables, images, clip_denoised=clip)
        for clip in (True, False)
    )
    assert np.std(clipped) < np.std(free) - 0.1
