"""Order, last step and cost of Heun's rule."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from glide_jax.diffusion import process, respacing, sampling_loop, single_step

CONTRAST = 0.5  # standard deviation of the data


def _normal(seed, *shape):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def _gaussian_denoise(schedule):
    """The exact denoiser of Gaussian data, whose x_start is linear in x_t."""
    tables = respacing.respaced_tables(schedule, 1000, "")
    chain = jnp.asarray(tables.alphas_cumprod)

    def denoise(x_t, timesteps):
        cumprod = chain[timesteps][:, None, None, None]
        variance = cumprod * CONTRAST**2 + 1 - cumprod
        eps = jnp.sqrt(1 - cumprod) / variance * x_t
        return jnp.concatenate([eps, jnp.zeros_like(eps)], axis=-1)

    return denoise


def test_the_error_falls_with_the_square_of_the_number_of_steps(image_keys):
    schedule = "linear"
    denoise, x_init = _gaussian_denoise(schedule), _normal(0, 2, 4, 4, 3)

    @functools.cache
    def run(rule, spec):
        tables = respacing.respaced_tables(schedule, 1000, spec)
        return sampling_loop.sample_loop(
            denoise, tables, x_init, image_keys(2), rule=rule, clip_denoised=False
        )

    # The flow of Gaussian data keeps x_t / std(x_t).
    last = respacing.respaced_tables(schedule, 1000, "").alphas_cumprod[-1]
    exact = x_init * CONTRAST / np.sqrt(last * CONTRAST**2 + 1 - last)

    def error(rule, spec):
        return np.abs(run(rule, spec) - exact).max()

    # Halved steps: first order halves the error, second order quarters it.
    assert error("heun", "lambda20") > 3 * error("heun", "lambda40")
    assert error("ddim", "lambda20") < 3 * error("ddim", "lambda40")
    # At the same cost in network evaluations, DDIM is further away.
    assert error("heun", "lambda20") < error("ddim", "lambda40")


def test_many_steps_of_ddim_and_heun_agree(mixture_denoiser, image_keys):
    schedule = "squaredcos_cap_v2"
    denoise, x_init = mixture_denoiser(schedule), _normal(0, 4, 8, 8, 3)

    def run(rule, spec):
        tables = respacing.respaced_tables(schedule, 1000, spec)
        return jax.jit(
            lambda x: sampling_loop.sample_loop(
                denoise, tables, x, image_keys(4), rule=rule
            )
        )(x_init)

    fine = run("ddim", "")
    distance = {
        rule: np.abs(run(rule, "100") - fine).mean() for rule in ("ddim", "heun")
    }
    assert distance["heun"] < distance["ddim"] / 2


def test_the_last_step_is_ddims():
    tables = respacing.respaced_tables("squaredcos_cap_v2", 1000, "8")
    x_t, gradient = _normal(0, 2, 4, 4, 3), _normal(1, 2, 4, 4, 3)
    output, t = _normal(2, 2, 4, 4, 6), np.zeros(2, np.int32)
    step = single_step.heun_step(lambda x, index: (output, gradient), tables, x_t, t)
    ddim = single_step.ddim_step(tables, output, x_t, t, x_t, gradient=gradient)
    np.testing.assert_array_equal(step.x_prev, ddim.x_prev)
    np.testing.assert_array_equal(step.pred_x_start, ddim.pred_x_start)


def test_the_mean_of_both_estimates_takes_the_ddim_step():
    tables = respacing.respaced_tables("linear", 1000, "8")
    x_t, t = _normal(0, 2, 4, 4, 3), np.full(2, 5, np.int32)
    first, second = _normal(1, 2, 4, 4, 6), _normal(2, 2, 4, 4, 6)
    predicted = single_step.ddim_step(tables, first, x_t, t, x_t)
    other = process.p_mean_variance(tables, second, predicted.x_prev, t - 1)
    step = single_step.heun_step(
        lambda x, index: (first if int(index[0]) == 5 else second, None), tables, x_t, t
    )
    mean = (predicted.pred_x_start + other.pred_x_start) / 2
    np.testing.assert_allclose(step.pred_x_start, mean, atol=1e-6)
