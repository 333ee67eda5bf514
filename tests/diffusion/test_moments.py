"""Moment matching: the posterior between two timesteps, and where a student rests."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from glide_jax.diffusion import (
    moments,
    process,
    respacing,
    schedules,
    single_step,
)

TABLES = process.make_tables(schedules.make_betas("squaredcos_cap_v2", 1000))


def images(*values):
    """Values as pictures of one pixel."""
    return jnp.asarray(values, jnp.float32).reshape(-1, 1, 1, 1)


def test_between_neighbours_it_is_the_posterior_of_the_chain():
    t = jnp.arange(1, 1000)
    x_start, x_t = jnp.full((999, 1, 1, 1), 0.7), jnp.full((999, 1, 1, 1), -1.3)
    expected = process.q_posterior_mean_variance(TABLES, x_start, x_t, t)

    def draw(noise):
        return moments.posterior_sample(
            TABLES, x_start, x_t, t, t - 1, jnp.full_like(x_t, noise)
        )

    # 1 - r is a small difference near the clean end: float32's 6e-8 of 1e-4.
    np.testing.assert_allclose(draw(0.0), expected.mean, rtol=1e-3, atol=1e-5)
    std = jnp.sqrt(expected.variance)
    np.testing.assert_allclose(draw(1.0) - draw(0.0), std, rtol=2e-3, atol=1e-5)


def test_over_any_distance_the_noise_of_a_picture_is_that_of_the_chain():
    t, s = (
        jnp.asarray(x) for x in ([999, 999, 999, 499, 10, 7], [998, 499, 0, 3, 9, 7])
    )
    zeros, ones = jnp.zeros((6, 1, 1, 1)), jnp.ones((6, 1, 1, 1))

    def draw(x_start, x_t, noise):
        return moments.posterior_sample(TABLES, x_start, x_t, t, s, noise)

    # x_t = alpha_t x + sigma_t eps with x = 1 leads to a mean of alpha_s x.
    mean = draw(ones, process.q_sample(TABLES, ones, t, zeros), zeros)
    expected = process.q_mean_variance(TABLES, ones, s)
    np.testing.assert_allclose(mean, expected.mean, rtol=1e-5)
    from_eps = draw(zeros, process.q_sample(TABLES, zeros, t, ones), zeros)
    fresh = draw(zeros, zeros, ones)
    variance = jnp.exp(expected.log_variance)
    np.testing.assert_allclose(from_eps**2 + fresh**2, variance, rtol=1e-4)


def test_the_sampler_of_a_student_draws_from_this_posterior():
    grid = respacing.respaced_tables(
        "squaredcos_cap_v2", 1000, "grid4", prediction="x_and_eps"
    )
    t = jnp.arange(1, 4)
    x_start, eps, noise = images(0.5, -0.2, 0.9), images(1, -1, 2), images(2, 1, -1)
    x_t = process.q_sample(grid, x_start, t, eps)
    output = jnp.concatenate([eps, x_start], axis=-1)
    found = single_step.ddim_step(grid, output, x_t, t, noise, eta=1.0).x_prev
    expected = moments.posterior_sample(
        TABLES, x_start, x_t, grid.timesteps[t], grid.timesteps[t - 1], noise
    )
    # DDIM's direction is the root of a difference that float32 rounds by 6e-8.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=5e-4)


def test_the_weight_is_the_snr_between_one_and_its_bound():
    found = moments.weight(TABLES, jnp.asarray([0, 999]))
    assert found.tolist() == [moments.MAX_WEIGHT, 1.0]


MEAN, STD = 0.3, 0.2  # of the data, one pixel


def teacher(z, s):
    """The clean picture of z_s under the law of the data."""
    alpha, sigma = (
        TABLES.sqrt_alphas_cumprod[s],
        TABLES.sqrt_one_minus_alphas_cumprod[s],
    )
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    return MEAN + gain * (z - alpha * MEAN), gain


def test_a_student_of_one_step_rests_at_the_law_of_the_data():
    """x~ = a + b z and phi = c + d z_s: a and b become mean and deviation."""
    rows, s = 2048, 300
    t_rows, s_rows = jnp.full((rows,), 999), jnp.full((rows,), s)
    _, gain = teacher(0.0, s)
    # phi starts as the teacher, the student as nearly its own mean picture.
    start = {"a": 0.0, "b": 0.05, "c": teacher(0.0, s)[0], "d": gain}
    start = jax.tree.map(jnp.float32, start)
    optimizer = optax.adam(optax.linear_schedule(5e-3, 0.0, 2000))

    def loss(params, key):
        keys = jax.random.split(key)
        z_t, noise = (jax.random.normal(k, (rows, 1, 1, 1)) for k in keys)
        x_student = params["a"] + params["b"] * z_t
        z_s = moments.posterior_sample(
            TABLES, jax.lax.stop_gradient(x_student), z_t, t_rows, s_rows, noise
        )
        found = moments.matching_losses(
            x_student, params["c"] + params["d"] * z_s, teacher(z_s, s)[0]
        )
        return jnp.mean(sum(found.values()))

    def step(carry, key):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(0), 2000)
    (params, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), keys)
    # What noise of 2048 rows leaves.
    assert abs(params["a"] - MEAN) < 0.02
    assert abs(params["b"] - STD) < 0.02
    np.testing.assert_allclose(params["d"], gain, atol=0.02)


def test_the_student_alone_has_the_gradient_of_the_difference():
    x_student, x_auxiliary, x_teacher = images(0.1, 0.2), images(0.5, 3.0), images(0, 0)

    def total(x_student, x_auxiliary):
        found = moments.matching_losses(x_student, x_auxiliary, x_teacher)
        return jnp.sum(found["student"]), found

    (by_student, by_auxiliary), found = jax.grad(total, (0, 1), has_aux=True)(
        x_student, x_auxiliary
    )
    np.testing.assert_allclose(by_student.ravel(), [0.5, 1.0])  # clipped to [-1, 1]
    assert not np.any(by_auxiliary)
    assert not np.any(found["student"])
