"""Running averages against the formula, over several horizons at once."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.config import defaults
from glide_jax.train import train_state


@pytest.mark.parametrize(
    ("updates", "expected"),
    [(0, 1 / 10), (1, 2 / 11), (8, 9 / 18), (90, 0.9), (10_000, 0.9)],
)
def test_the_decay_warms_up_and_stops_at_its_setting(updates, expected):
    found = train_state.decay_at(0.9, jnp.int32(updates), warmup=True)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_without_warm_up_the_decay_is_its_setting_at_once():
    np.testing.assert_allclose(
        train_state.decay_at(0.9, 0, warmup=False), 0.9, rtol=1e-6
    )


@pytest.mark.parametrize("warmup", [True, False])
def test_every_horizon_follows_the_formula(warmup):
    config = defaults.EmaConfig(decays=(0.5, 0.25), warmup=warmup)
    values = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    averages = {"0.5": {"w": jnp.zeros(3)}, "0.25": {"w": jnp.zeros(3)}}
    expected = {"0.5": np.zeros(3), "0.25": np.zeros(3)}
    for k, value in enumerate(values):
        averages = train_state.update_averages(
            config, averages, {"w": value}, jnp.int32(k)
        )
        for decay in config.decays:
            d = min(decay, (1 + k) / (10 + k)) if warmup else decay
            name = str(decay)
            expected[name] = d * expected[name] + (1 - d) * value
    for name, average in expected.items():
        # Six float32 steps against float64 ones.
        np.testing.assert_allclose(averages[name]["w"], average, rtol=1e-5, atol=1e-6)


def test_every_third_update_averages_with_the_horizon_of_three():
    config = defaults.EmaConfig(decays=(0.9,), warmup=False, every_steps=3)
    values = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    averages = {"0.9": {"w": jnp.zeros(3)}}
    expected = np.zeros(3)
    for k, value in enumerate(values):
        averages = train_state.update_averages(
            config, averages, {"w": jnp.asarray(value)}, jnp.int32(k)
        )
        if k in (2, 5):
            expected = 0.9**3 * expected + (1 - 0.9**3) * value
        np.testing.assert_allclose(averages["0.9"]["w"], expected, rtol=1e-5, atol=1e-6)
