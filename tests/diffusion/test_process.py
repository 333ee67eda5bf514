"""Tables against the released code, and the identities that tie them together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax import errors
from glide_jax.diffusion import process, schedules

SCHEDULES = ["linear", "squaredcos_cap_v2"]


def _normal(seed, *shape):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(params=SCHEDULES)
def tables(request):
    return process.make_tables(schedules.make_betas(request.param, 1000))


@pytest.mark.parametrize("name", SCHEDULES)
def test_float64_tables_equal_the_reference(golden_tables, assert_within, name):
    tables = process.float64_tables(schedules.make_betas(name, 1000))
    prefix = f"tables/{name}/1000/"
    compared = [key for key in golden_tables if key.startswith(prefix)]
    assert len(compared) == 12
    for key in compared:
        # 1e-12: float64 rounding over a product of 1000 factors.
        assert_within(tables[key.removeprefix(prefix)], golden_tables[key], 1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_tables_are_the_float64_ones_rounded_once(name):
    betas = schedules.make_betas(name, 1000)
    tables = process.make_tables(betas)
    for field, expected in process.float64_tables(betas).items():
        actual = np.asarray(getattr(tables, field))
        assert actual.dtype == np.float32
        np.testing.assert_array_equal(actual, expected.astype(np.float32), field)
    np.testing.assert_array_equal(tables.timesteps, np.arange(1000))
    assert tables.timesteps.dtype == jnp.int32
    assert tables.num_timesteps == 1000


def test_tables_cross_jit_as_a_pytree(tables):
    doubled = jax.jit(lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree))(tables)
    np.testing.assert_array_equal(doubled.betas, 2 * tables.betas)
    # `prediction` is static.
    assert len(jax.tree.leaves(tables)) == len(dataclasses.fields(tables)) - 1


def test_tables_may_hold_shapes_and_shardings(tables):
    """jax rebuilds the dataclass around whatever a tree function returns."""
    spec = jax.eval_shape(lambda tree: tree, tables)
    assert spec.betas.shape == (1000,)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    assert jax.tree.map(lambda _: sharding, tables).timesteps is sharding


def test_tables_of_one_step_are_finite():
    tables = process.float64_tables(np.array([0.5]))
    assert all(np.isfinite(table).all() for table in tables.values())


def test_timesteps_must_match_the_betas():
    with pytest.raises(errors.UserError, match="one training timestep per beta"):
        process.make_tables(np.array([0.1, 0.2]), np.array([0]))


@pytest.mark.parametrize("name", SCHEDULES)
def test_x_t_equals_the_reference(tiny, assert_within, name):
    tables = process.make_tables(schedules.make_betas(name, 1000))
    x_t = process.q_sample(
        tables, tiny["loss/x_start"], tiny["loss/t"], tiny["loss/noise"]
    )
    assert_within(x_t, tiny[f"loss/{name}/x_t"], 1e-5)  # float32 arithmetic


def test_q_sample_has_the_mean_and_variance_of_q(tables):
    x_start, noise, t = _normal(0, 3, 4, 4, 3), _normal(1, 3, 4, 4, 3), [0, 400, 999]
    mean, variance, log_variance = process.q_mean_variance(
        tables, x_start, np.array(t, np.int32)
    )
    x_t = process.q_sample(tables, x_start, np.array(t, np.int32), noise)
    # Variance from 1 - A_t loses the digits that A_0 = 1 - 4e-5 has in common with 1.
    np.testing.assert_allclose(x_t, mean + np.sqrt(variance) * noise, atol=2e-5)
    np.testing.assert_allclose(np.exp(log_variance), variance, atol=1e-7)


def test_predict_eps_inverts_predict_x_start(tables):
    x_start, noise = _normal(0, 3, 4, 4, 3), _normal(1, 3, 4, 4, 3)
    t = np.array([20, 300, 800], np.int32)
    x_t = process.q_sample(tables, x_start, t, noise)
    pred_x_start = process.predict_x_start(tables, x_t, t, noise)
    # 1 / sqrt(A_800) is about 25 (linear): float32 rounding grows by as much.
    np.testing.assert_allclose(pred_x_start, x_start, atol=2e-5)
    pred_eps = process.predict_eps(tables, x_t, t, pred_x_start)
    np.testing.assert_allclose(pred_eps, noise, atol=2e-5)


@pytest.mark.parametrize("t", [1, 250, 999])
def test_the_posterior_is_bayes_rule_on_two_gaussians(tables, t):
    """q(x_{t-1} | x_t, x_start) from q(x_t | x_{t-1}) q(x_{t-1} | x_start)."""
    exact = process.float64_tables(np.asarray(tables.betas, np.float64))
    beta, prev = exact["betas"][t], exact["alphas_cumprod_prev"][t]
    precision = (1 - beta) / beta + 1 / (1 - prev)
    x_start, x_t = _normal(0, 1, 2, 2, 3), _normal(1, 1, 2, 2, 3)
    mean = (
        np.sqrt(1 - beta) / beta * x_t + np.sqrt(prev) / (1 - prev) * x_start
    ) / precision
    out = process.q_posterior_mean_variance(
        tables, x_start, x_t, np.array([t], np.int32)
    )
    # Float32 betas stand in for the float64 ones: 1e-7 each, added up over the chain.
    np.testing.assert_allclose(out.mean, mean, atol=1e-5)
    np.testing.assert_allclose(np.ravel(out.variance), 1 / precision, rtol=1e-4)


def test_var_values_span_from_the_posterior_variance_to_beta(tables):
    t = np.array([500, 500], np.int32)
    var_values = (
        np.ones((2, 2, 2, 3), np.float32) * np.array([-1, 1])[:, None, None, None]
    )
    model_output = np.concatenate([np.zeros_like(var_values), var_values], -1)
    out = process.p_mean_variance(
        tables, model_output.astype(np.float32), _normal(0, 2, 2, 2, 3), t
    )
    bounds = [tables.posterior_variance[500], tables.betas[500]]
    # exp of a float32 log near -6: relative rounding of 6e-7.
    np.testing.assert_allclose(out.variance[:, 0, 0, 0], bounds, rtol=2e-6)


def test_denoised_fn_comes_before_the_clip(tables):
    x_t, t = _normal(0, 1, 2, 2, 3), np.array([3], np.int32)
    out = process.p_mean_variance(
        tables, _normal(1, 1, 2, 2, 6), x_t, t, denoised_fn=lambda x: 0 * x + 7
    )
    np.testing.assert_array_equal(out.pred_x_start, np.ones_like(x_t))


def test_a_bfloat16_network_is_taken_in_float32(tables):
    out = process.p_mean_variance(
        tables,
        jnp.ones((1, 2, 2, 6), jnp.bfloat16),
        _normal(0, 1, 2, 2, 3),
        np.array([999], np.int32),
    )
    assert {array.dtype for array in out} == {np.dtype(np.float32)}
