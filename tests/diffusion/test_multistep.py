"""Order, warm-up and landing of the multistep rules, on data of known eps."""

import functools

import jax
import numpy as np
import pytest

from glide_jax.diffusion import (
    multistep,
    process,
    respacing,
    samplers,
    sampling_loop,
    single_step,
)


def _jit(step):
    """One compilation instead of one per operation."""
    return jax.jit(step, static_argnames="clip_denoised")


RULES = {
    "plms": _jit(multistep.plms_step),
    "dpm_solver_pp": _jit(multistep.dpm_solver_pp_step),
}
ddim_step = _jit(single_step.ddim_step)
MEMORY = {rule: samplers.SAMPLERS[rule].memory for rule in RULES}


def _normal(seed, *shape):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def error(mixture_denoiser, image_keys):
    """(schedule, rule, respacing) -> mean distance to DDIM's 1000 steps."""

    @functools.cache
    def sample(schedule, rule, spec):
        denoise, x_init = mixture_denoiser(schedule), _normal(0, 4, 8, 8, 3)
        tables = respacing.respaced_tables(schedule, 1000, spec)
        return jax.jit(
            lambda x: sampling_loop.sample_loop(
                denoise, tables, x, image_keys(4), rule=rule
            )
        )(x_init)

    def distance(schedule, rule, spec):
        truth = sample(schedule, "ddim", "")
        return np.abs(sample(schedule, rule, spec) - truth).mean()

    return distance


# The base model's schedule with even steps, and the upsampler's with its own.
@pytest.mark.parametrize("rule", RULES)
def test_200_steps_reach_what_1000_steps_of_ddim_do(error, rule):
    schedule = "squaredcos_cap_v2"
    # 0.05 of a range of 2 is 6 grey levels; a wrong coefficient costs more.
    assert error(schedule, rule, "200") < 0.05
    assert error(schedule, rule, "200") < error(schedule, "ddim", "200") / 2


@pytest.mark.parametrize("rule", RULES)
def test_20_steps_of_equal_log_snr_come_closer_than_20_of_ddim(error, rule):
    schedule = "squaredcos_cap_v2"
    assert error(schedule, rule, "lambda20") < error(schedule, "ddim", "lambda20") / 2
    assert error(schedule, rule, "lambda20") < error(schedule, "ddim", "20")


@pytest.mark.parametrize("rule", RULES)
def test_uneven_steps_come_closer_than_those_of_ddim(error, rule):
    assert error("linear", rule, "fast27") < error("linear", "ddim", "fast27")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("t", [1, 4, 7])
def test_the_first_step_walked_is_ddims_wherever_it_is(rule, t):
    tables = respacing.respaced_tables("squaredcos_cap_v2", 1000, "8")
    x_t, output, gradient = (_normal(i, 2, 4, 4, 6) for i in range(3))
    x_t, gradient, t = x_t[..., :3], gradient[..., :3], np.full(2, t, np.int32)
    garbage = (np.full_like(x_t, 1e6),) * MEMORY[rule]
    step = RULES[rule](tables, output, x_t, t, garbage, 0, gradient=gradient)
    ddim = ddim_step(tables, output, x_t, t, x_t, gradient=gradient)
    np.testing.assert_array_equal(step.pred_x_start, ddim.pred_x_start)
    # Fused in another order; the shifted score reaches 1e4 at the noisy end.
    scale = np.abs(ddim.x_prev).max()
    np.testing.assert_allclose(step.x_prev / scale, ddim.x_prev / scale, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_the_last_step_lands_on_the_estimate(rule):
    tables = respacing.respaced_tables("squaredcos_cap_v2", 1000, "8")
    x_t, output = _normal(0, 2, 4, 4, 3), _normal(1, 2, 4, 4, 6)
    earlier = tuple(_normal(i, 2, 4, 4, 3) for i in range(MEMORY[rule]))
    t = np.zeros(2, np.int32)
    step = RULES[rule](tables, output, x_t, t, earlier, len(earlier))
    np.testing.assert_allclose(step.x_prev, step.pred_x_start, atol=1e-6)


@pytest.mark.parametrize(
    ("num_earlier", "weights"),
    [
        (0, [1]),
        (1, [3 / 2, -1 / 2]),
        (2, [23 / 12, -16 / 12, 5 / 12]),
        (3, [55 / 24, -59 / 24, 37 / 24, -9 / 24]),
    ],
)
def test_plms_on_even_steps_is_adams_bashforth(num_earlier, weights):
    tables = respacing.respaced_tables("linear", 1000, "ddim50")
    x_t, t = _normal(9, 1, 4, 4, 3), np.array([20], np.int32)
    eps = [_normal(i, 1, 4, 4, 3) for i in range(4)]
    output = np.concatenate([eps[0], eps[0]], axis=-1)
    step = RULES["plms"](
        tables, output, x_t, t, tuple(eps[1:]), num_earlier, clip_denoised=False
    )
    mean = sum(w * e for w, e in zip(weights, eps, strict=False))
    mean = np.concatenate([mean, mean], axis=-1).astype(np.float32)
    ddim = ddim_step(tables, mean, x_t, t, x_t, clip_denoised=False)
    np.testing.assert_allclose(step.x_prev, ddim.x_prev, atol=1e-5)
    for kept, expected in zip(step.earlier, eps, strict=False):
        np.testing.assert_allclose(kept, expected, atol=1e-5)


def test_plms_is_exact_where_eps_is_a_cubic_of_uneven_timesteps():
    betas = np.full(6, 0.1)
    timesteps = np.array([0, 100, 190, 300, 390, 500])
    tables = process.make_tables(betas, timesteps)
    cubic = np.polynomial.Polynomial([0.3, -0.5, 0.8, 0.4])

    def eps_at(index):
        value = cubic(timesteps[index] / 500)
        return np.full((1, 2, 2, 3), value, np.float32)

    x_t, t = _normal(0, 1, 2, 2, 3), np.array([2], np.int32)
    output = np.concatenate([eps_at(2), eps_at(2)], axis=-1)
    earlier = (eps_at(3), eps_at(4), eps_at(5))
    step = RULES["plms"](tables, output, x_t, t, earlier, 3, clip_denoised=False)
    area = cubic.integ()
    mean = (area(190 / 500) - area(100 / 500)) / (90 / 500)
    mean = np.full((1, 2, 2, 6), mean, np.float32)
    ddim = ddim_step(tables, mean, x_t, t, x_t, clip_denoised=False)
    np.testing.assert_allclose(step.x_prev, ddim.x_prev, atol=1e-6)


def test_dpm_solver_pp_is_the_published_update():
    """2211.01095, algorithm 2, in float64 with its own symbols."""
    tables = respacing.respaced_tables("linear", 1000, "10")
    cumprod = np.asarray(tables.alphas_cumprod, np.float64)
    alpha, sigma = np.sqrt(cumprod), np.sqrt(1 - cumprod)
    half_log_snr = np.log(alpha / sigma)
    x_t, output, before = (_normal(i, 1, 4, 4, 6) for i in range(3))
    x_t, before, t = x_t[..., :3], before[..., :3], 8
    step = RULES["dpm_solver_pp"](
        tables, output, x_t, np.array([t], np.int32), (before,), 1
    )
    h = half_log_snr[t - 1] - half_log_snr[t]
    r = (half_log_snr[t] - half_log_snr[t + 1]) / h
    assert r > 1
    x_start = np.asarray(step.pred_x_start)
    better = (1 + 1 / (2 * r)) * x_start - 1 / (2 * r) * before
    expected = sigma[t - 1] / sigma[t] * x_t - alpha[t - 1] * (np.exp(-h) - 1) * better
    np.testing.assert_allclose(step.x_prev, expected, atol=1e-5)
    (remembered,) = step.earlier
    np.testing.assert_array_equal(remembered, x_start)


@pytest.mark.parametrize("rule", RULES)
def test_a_long_step_after_a_short_one_does_not_magnify_errors(rule):
    """fast27 walks 800, 799, 600: the slope over one timestep says nothing of 199."""
    tables = respacing.respaced_tables("linear", 1000, "fast27")
    t = np.array([24], np.int32)
    assert tables.timesteps[23:26].tolist() == [600, 799, 800]
    x_t, output = _normal(0, 1, 4, 4, 3), 0.5 * _normal(1, 1, 4, 4, 6)
    output[..., :3] += x_t
    earlier = (_normal(2, 1, 4, 4, 3),) * MEMORY[rule]
    moved = tuple(one + 0.01 for one in earlier)
    out, other = (
        RULES[rule](tables, output, x_t, t, given, len(given)).x_prev
        for given in (earlier, moved)
    )
    # Unlimited, 0.01 comes out as 1 from PLMS and as 0.02 from DPM-Solver++.
    assert np.abs(out - other).max() < 0.005
