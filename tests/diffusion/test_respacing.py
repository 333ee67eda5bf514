"""Kept timesteps and thinned chains against the released code."""

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.diffusion import process, respacing, schedules

SCHEDULES = ["linear", "squaredcos_cap_v2"]


def test_every_recorded_respacing_keeps_the_same_timesteps(golden_respacing):
    assert len(golden_respacing) == 84
    for name, expected in golden_respacing.items():
        num_timesteps, spec = name.split("/")
        if expected == "ValueError":
            with pytest.raises(errors.UserError):
                respacing.kept_timesteps(int(num_timesteps), spec)
        else:
            kept = respacing.kept_timesteps(int(num_timesteps), spec)
            assert kept.tolist() == expected, name


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "spec", ["150", "100", "27", "fast27", "ddim50", "10,10,3,2,2"]
)
def test_respaced_chains_equal_the_reference(
    golden_tables, assert_within, schedule, spec
):
    kept = respacing.kept_timesteps(1000, spec)
    betas = respacing.respaced_betas(schedules.make_betas(schedule, 1000), kept)
    tables = process.float64_tables(betas)
    prefix = f"respaced/{schedule}/{spec}/"
    np.testing.assert_array_equal(kept, golden_tables[f"{prefix}timestep_map"])
    compared = [key for key in golden_tables if key.startswith(prefix)]
    assert len(compared) == 6
    for key in compared:
        name = key.removeprefix(prefix)
        if name != "timestep_map":
            assert_within(tables[name], golden_tables[key], 1e-12)  # float64 rounding


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("spec", ["", "1000"])
def test_respacing_to_every_timestep_changes_nothing(schedule, spec):
    betas = schedules.make_betas(schedule, 1000)
    kept = respacing.kept_timesteps(1000, spec)
    assert kept.tolist() == list(range(1000))
    # A beta of 4e-5 is a difference of two numbers near 1: float64 leaves it 1e-11.
    np.testing.assert_allclose(respacing.respaced_betas(betas, kept), betas, rtol=1e-11)


def test_a_thinned_chain_is_as_noisy_as_the_full_one_where_they_meet():
    tables = respacing.respaced_tables("squaredcos_cap_v2", 1000, "ddim50")
    full = process.float64_tables(schedules.make_betas("squaredcos_cap_v2", 1000))
    np.testing.assert_array_equal(tables.timesteps, np.arange(0, 1000, 20))
    # Float32 storage.
    expected = full["alphas_cumprod"][np.arange(0, 1000, 20)]
    np.testing.assert_allclose(tables.alphas_cumprod, expected, rtol=1e-7)


def test_fast27_replaces_the_last_timestep():
    kept = respacing.kept_timesteps(1000, "fast27").tolist()
    plain = respacing.kept_timesteps(1000, "10,10,3,2,2").tolist()
    assert kept[:-1] == plain[:-1]
    assert (kept[-1], plain[-1]) == (997, 999)


@pytest.mark.parametrize(
    "spec",
    [
        "ten",
        "10,,3",
        "-5",
        "0",
        "ddim",
        "ddim-3",
        "1.5",
        "lambda",
        "lambda0",
        "lambdax",
    ],
)
def test_a_malformed_respacing_is_named(spec):
    with pytest.raises(errors.UserError, match=f"respacing='{spec}' is not understood"):
        respacing.kept_timesteps(1000, spec)


def test_too_many_steps_say_how_many_are_allowed():
    with pytest.raises(errors.UserError, match="at most 200"):
        respacing.kept_timesteps(1000, "10,10,201,2,2")
    with pytest.raises(errors.UserError, match="no integer stride gives 37"):
        respacing.kept_timesteps(1000, "ddim37")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("count", [2, 3, 10, 20, 50, 200, 999, 1000])
def test_lambda_spacing_keeps_as_many_as_asked_with_both_ends(schedule, count):
    kept = respacing.kept_timesteps(1000, f"lambda{count}", schedule)
    assert len(kept) == count
    assert (kept[0], kept[-1]) == (0, 999)
    assert np.all(np.diff(kept) > 0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_lambda_spacing_is_even_where_the_chain_is_fine_enough(schedule):
    kept = respacing.kept_timesteps(1000, "lambda20", schedule)
    cumprod = np.cumprod(1 - schedules.make_betas(schedule, 1000))
    half_log_snr = 0.5 * np.log(cumprod / (1 - cumprod))
    steps = -np.diff(half_log_snr[kept])
    # Inside, a timestep is a small part of a step; at the ends of the chain it is not.
    inner = steps[5:-5]
    assert inner.max() / inner.min() < 1.1
    assert np.ptp(np.diff(kept)[5:-5]) > 20


def test_respaced_tables_know_their_own_schedule():
    tables = respacing.respaced_tables("linear", 1000, "lambda20")
    kept = respacing.kept_timesteps(1000, "lambda20", "linear")
    np.testing.assert_array_equal(tables.timesteps, kept)


@pytest.mark.parametrize("spec", ["lambda1", "lambda1001", "lambda2000"])
def test_a_lambda_spacing_that_cannot_be_says_what_can(spec):
    with pytest.raises(errors.UserError, match="use lambda2 to lambda1000"):
        respacing.kept_timesteps(1000, spec, "linear")


def test_lambda_spacing_without_a_schedule_asks_for_one():
    with pytest.raises(errors.UserError, match="linear, squaredcos_cap_v2"):
        respacing.kept_timesteps(1000, "lambda20")
