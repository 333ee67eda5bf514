"""Losses and bits per dimension against the released code, and where gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax import errors
from glide_jax.diffusion import losses, process, schedules

SCHEDULES = ["linear", "squaredcos_cap_v2"]
REFERENCE_NAMES = {
    "mse_vb": "MSE",
    "hybrid": "RESCALED_MSE",
    "kl": "KL",
    "rescaled_kl": "RESCALED_KL",
}
# Losses in float32 (golden/README: 1e-5 of the largest value).
TOLERANCE = 1e-5

_jitted_losses = jax.jit(losses.training_losses, static_argnames="loss_type")


def _training_losses(tiny, schedule, loss_type, model_output, num_timesteps=1000):
    tables = process.make_tables(schedules.make_betas(schedule, num_timesteps))
    t = np.minimum(tiny["loss/t"], num_timesteps - 1)
    x_start, noise = tiny["loss/x_start"], tiny["loss/noise"]
    x_t = process.q_sample(tables, x_start, t, noise)
    return _jitted_losses(
        tables, model_output, x_start, x_t, noise, t, loss_type=loss_type
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("loss_type", REFERENCE_NAMES)
def test_training_losses_equal_the_reference(tiny, assert_within, schedule, loss_type):
    terms = _training_losses(tiny, schedule, loss_type, tiny["loss/model_output"])
    prefix = f"loss/{schedule}/{REFERENCE_NAMES[loss_type]}/"
    compared = [key for key in tiny if key.startswith(prefix)]
    assert compared
    for key in compared:
        assert_within(terms[key.removeprefix(prefix)], tiny[key], TOLERANCE)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_bits_per_dimension_equal_the_reference(tiny, assert_within, schedule):
    prefix = f"bpd/{schedule}/25/"
    tables = process.make_tables(schedules.make_betas(schedule, 25))
    noise = jnp.asarray(tiny[f"{prefix}noise"])
    terms = losses.bits_per_dimension(
        lambda x_t, timesteps: tiny[f"{prefix}model_output"],
        tables,
        tiny["loss/x_start"][:2],
        lambda t: noise[24 - t[0]],
    )
    for name in ("total_bpd", "prior_bpd", "vb", "xstart_mse", "mse"):
        assert_within(terms[name], tiny[prefix + name], TOLERANCE)


def test_the_prior_costs_nothing_where_no_signal_is_left():
    tables = process.make_tables(schedules.make_betas("squaredcos_cap_v2", 1000))
    # A_999 = 2.4e-9 of squared signal, half of it over ln 2: below 2e-9 bits.
    np.testing.assert_allclose(
        losses.prior_bpd(tables, np.ones((2, 4, 4, 3), np.float32)), 0, atol=1e-8
    )


def _gradient(tiny, loss_type):
    """Gradient of the summed loss: (with respect to pred_eps, to var_values)."""

    def total(model_output):
        return _training_losses(tiny, "linear", loss_type, model_output)["loss"].sum()

    return np.split(
        np.asarray(jax.jit(jax.grad(total))(tiny["loss/model_output"])), 2, axis=-1
    )


@pytest.mark.parametrize("loss_type", ["hybrid", "mse_vb"])
def test_vb_teaches_the_variance_but_not_the_mean(tiny, loss_type):
    eps_gradient, var_gradient = _gradient(tiny, loss_type)
    mse_eps_gradient, mse_var_gradient = _gradient(tiny, "mse")
    np.testing.assert_array_equal(eps_gradient, mse_eps_gradient)
    assert np.all(mse_var_gradient == 0)
    assert np.abs(var_gradient).max() > 0


def test_kl_teaches_the_mean_too(tiny):
    eps_gradient, _ = _gradient(tiny, "kl")
    assert np.abs(eps_gradient).max() > 0


def test_hybrid_scales_vb_by_the_length_of_the_chain(tiny):
    output = tiny["loss/model_output"]
    plain = _training_losses(tiny, "linear", "mse_vb", output, num_timesteps=100)
    scaled = _training_losses(tiny, "linear", "hybrid", output, num_timesteps=100)
    np.testing.assert_allclose(scaled["vb"], 0.1 * plain["vb"], rtol=1e-6)  # rounding
    np.testing.assert_array_equal(scaled["mse"], plain["mse"])


def test_the_true_eps_costs_no_mse(tiny):
    noise = tiny["loss/noise"]
    terms = _training_losses(
        tiny, "linear", "mse", np.concatenate([noise, noise], axis=-1)
    )
    np.testing.assert_array_equal(terms["mse"], 0)
    np.testing.assert_array_equal(terms["loss"], 0)


def test_the_mass_of_all_8_bit_values_is_1():
    values = np.linspace(-1, 1, 256, dtype=np.float32).reshape(1, 16, 16, 1)
    mean, log_scale = jnp.full(values.shape, 0.3), jnp.full(values.shape, -2.0)
    log_mass = jax.jit(losses._discretized_log_likelihood)(values, mean, log_scale)
    # 256 float32 differences of neighbouring CDF values.
    np.testing.assert_allclose(np.exp(log_mass).sum(), 1, atol=1e-5)


def test_an_unknown_loss_names_the_known_ones(tiny):
    with pytest.raises(errors.UserError, match="mse, hybrid, mse_vb"):
        _training_losses(tiny, "linear", "l1", tiny["loss/model_output"])


@pytest.mark.parametrize("prediction", ["eps", "v", "x"])
@pytest.mark.parametrize("weighting", ["min_snr", "sigmoid"])
def test_weights_are_those_of_the_error_of_x_start(tiny, prediction, weighting):
    betas = schedules.make_betas("squaredcos_cap_v2", 1000)
    tables = process.make_tables(betas, prediction=prediction)
    t = np.array([50, 400, 600, 900])
    shape = (4, *tiny["loss/x_start"].shape[1:])
    noise, x_start, output = np.random.default_rng(0).standard_normal((3, *shape))
    x_t = process.q_sample(tables, x_start, t, noise)
    output = np.concatenate([output, output], axis=-1)
    terms = losses.training_losses(
        tables, output, x_start, x_t, noise, t, loss_type="mse"
    )
    weighted = losses.mse_weights(tables, t, weighting, 2.0) * terms["mse"]
    snr = tables.alphas_cumprod[t] / (1 - tables.alphas_cumprod[t])
    assert snr[0] > 2 > snr[-1]
    weights = np.minimum(snr, 2.0) if weighting == "min_snr" else 2 * snr / (2 + snr)
    error = losses.mse(x_start, process.predict(tables, output, x_t, t).x_start)
    np.testing.assert_allclose(weighted, weights * error, rtol=2e-4)


def test_the_low_pass_error_of_a_tint_is_factor_times_its_square():
    noise = np.random.RandomState(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    tint = np.float32(0.25)
    output = np.concatenate([noise + tint, np.zeros_like(noise)], axis=-1)
    error = losses.low_pass_mse(output, noise, 4)
    np.testing.assert_allclose(error, 4 * tint**2, rtol=1e-5)


def test_the_low_pass_error_does_not_see_what_averages_out():
    noise = np.zeros((1, 8, 8, 3), np.float32)
    checkerboard = np.indices((8, 8)).sum(axis=0) % 2 * 2.0 - 1.0
    stripes = np.broadcast_to(checkerboard[None, ..., None], noise.shape)
    output = np.concatenate([stripes, noise], axis=-1).astype(np.float32)
    assert float(losses.low_pass_mse(output, noise, 4)[0]) == 0.0
