"""What one step does to the state, shown on a loss of three parameters."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.config import defaults
from glide_jax.train import objectives, optimizer, step, train_state
from tests.train.small_runs import assert_trees_equal

T = 10


def quadratic(params, batch, keys_of, resampler):
    """Mean of (w - x)^2 over the batch: its gradient is 2 (w - mean x)."""
    losses = jnp.sum(jnp.square(params["w"] - batch["x"]), axis=1)
    metrics = {"loss": (jnp.sum(losses), jnp.float32(losses.shape[0]))}
    t = jnp.arange(losses.shape[0]) % T
    return jnp.mean(losses), objectives.Aux(t, losses, metrics)


def non_negative(params):
    return {"w": jnp.maximum(params["w"], 0.0)}


OBJECTIVE = objectives.Objective(
    init=lambda key: {"w": jnp.ones((1, 3))},
    loss=quadratic,
    constrain_params=lambda params: params,
)


def make(objective=OBJECTIVE, **sections):
    """The jitted step and the state before it."""
    config = defaults.Config(
        **{
            "diffusion": defaults.DiffusionConfig(num_timesteps=T),
            "optim": defaults.OptimConfig(learning_rate=0.1),
            "ema": defaults.EmaConfig(decays=(0.9, 0.5)),
            **sections,
        }
    )
    params = objective.init(jax.random.key(0))
    state = train_state.make_state(
        config, params, optimizer.make_optimizer(config.optim)
    )
    train_step = jax.jit(step.make_train_step(config, objective))
    return functools.partial(train_step, seed=config.seed), state


def batch(value=0.0, rows=4):
    return {
        "x": np.full((rows, 3), value, np.float32),
        "example_index": np.arange(rows, dtype=np.int32),
    }


def value(metrics, name):
    total, count = metrics[name]
    return float(total / count)


def test_a_step_moves_parameters_and_every_average_and_counts_itself():
    train_step, before = make()
    after, metrics, _ = train_step(before, batch())
    # Adam's first update is one learning rate against the gradient's sign.
    np.testing.assert_allclose(after.params["w"], 0.9, rtol=1e-5)
    # Warm-up: the first decay is 1 / 10 for both.
    for average in after.ema_params.values():
        np.testing.assert_allclose(average["w"], 0.1 + 0.9 * 0.9, rtol=1e-5)
    assert (int(after.step), int(after.updates)) == (1, 1)
    assert value(metrics, "loss") == pytest.approx(3.0)
    assert value(metrics, "grad_norm") == pytest.approx(np.sqrt(12), rel=1e-6)
    assert value(metrics, "learning_rate") == pytest.approx(0.1)
    assert value(metrics, "skipped_updates") == 0


def test_the_step_is_compiled_once():
    # As Flax's initializers leave zeros and ones: of a type that gives way.
    yielding = OBJECTIVE._replace(init=lambda _: {"w": jnp.full((1, 3), 1.0)})
    assert yielding.init(None)["w"].weak_type
    train_step, state = make(yielding)
    for _ in range(2):
        state, *_ = train_step(state, batch())
    assert train_step.func._cache_size() == 1


def test_moments_and_averages_are_updated_in_place():
    wide = OBJECTIVE._replace(init=lambda _: {"w": jnp.ones((1024, 3))})
    train_step, state = make(wide)
    in_place = jax.jit(train_step.func.__wrapped__, donate_argnums=0)
    program = in_place.lower(state, batch(rows=1024), seed=0).compile().as_text()
    held = r"%state_(?:opt_state|ema_params)\w*__w__"
    # Two moments and two averages.
    assert len(set(re.findall(rf"fusion\(({held})", program))) == 4
    assert not re.search(rf"copy\({held}", program)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_skips_the_update_and_counts_the_step(poison):
    train_step, state = make()
    state, *_ = train_step(state, batch())
    after, metrics, _ = train_step(state, batch(poison))
    assert value(metrics, "skipped_updates") == 1
    assert (int(after.step), int(after.updates)) == (2, 1)
    assert_trees_equal(after.params, state.params)
    assert_trees_equal(after.ema_params, state.ema_params)
    assert_trees_equal(after.opt_state, state.opt_state)
    recovered, metrics, _ = train_step(after, batch())
    assert (int(recovered.step), int(recovered.updates)) == (3, 2)
    assert value(metrics, "skipped_updates") == 0


def test_the_learning_rate_follows_steps_and_the_averages_follow_updates():
    optim = defaults.OptimConfig(learning_rate=0.1, schedule="linear")
    train = defaults.TrainConfig(num_steps=4)
    train_step, state = make(optim=optim, train=train)
    state, *_ = train_step(state, batch(np.nan))
    after, metrics, _ = train_step(state, batch())
    # The second of four steps, although the first made no update.
    assert value(metrics, "learning_rate") == pytest.approx(0.075, rel=1e-5)
    # The first update, although it is the second step: decay 1 / 10.
    moved = float(after.params["w"][0, 0])
    np.testing.assert_allclose(after.ema_params["0.9"]["w"], 0.1 + 0.9 * moved)


def test_a_loss_that_is_not_finite_leaves_no_trace_in_the_loss_history():
    train = defaults.TrainConfig(timestep_sampling="loss_second_moment")
    train_step, state = make(train=train)
    state, *_ = train_step(state, batch())
    np.testing.assert_array_equal(state.resampler.counts, [1] * 4 + [0] * 6)
    after, *_ = train_step(state, batch(np.nan))
    assert_trees_equal(after.resampler, state.resampler)


def test_the_loss_history_takes_every_loss_of_the_batch():
    train = defaults.TrainConfig(timestep_sampling="loss_second_moment")
    train_step, state = make(train=train)
    state, *_ = train_step(state, batch(rows=12))
    np.testing.assert_array_equal(state.resampler.counts, [2, 2] + [1] * 8)
    np.testing.assert_allclose(state.resampler.history[0, :3], [3.0, 3.0, 0.0])


def test_parameters_are_put_back_into_their_range_before_they_are_averaged():
    objective = OBJECTIVE._replace(constrain_params=non_negative)
    optim = defaults.OptimConfig(learning_rate=5.0)
    train_step, state = make(objective, optim=optim)
    after, *_ = train_step(state, batch())
    np.testing.assert_array_equal(after.params["w"], 0.0)
    np.testing.assert_allclose(after.ema_params["0.9"]["w"], 0.1, rtol=1e-6)


def test_float16_scales_the_loss_up_a_little_each_step_and_halves_it_on_overflow():
    model = defaults.Text2ImConfig(compute_dtype="float16")
    train = defaults.TrainConfig(init_log2_loss_scale=10.0)
    train_step, state = make(model=model, train=train)
    after, metrics, _ = train_step(state, batch())
    assert float(after.log2_loss_scale) == pytest.approx(10.001)
    assert value(metrics, "log2_loss_scale") == pytest.approx(10.001)
    # The scale is taken out of the gradient again.
    assert value(metrics, "grad_norm") == pytest.approx(np.sqrt(12), rel=1e-5)
    overflowed, metrics, _ = train_step(after, batch(np.inf))
    assert value(metrics, "skipped_updates") == 1
    assert float(overflowed.log2_loss_scale) == pytest.approx(9.001)


def test_the_loss_scale_falls_to_its_floor_and_no_further():
    model = defaults.Text2ImConfig(compute_dtype="float16")
    train = defaults.TrainConfig(init_log2_loss_scale=3.5, min_log2_loss_scale=2.0)
    train_step, state = make(model=model, train=train)
    scales = []
    for _ in range(3):
        state, *_ = train_step(state, batch(np.nan))
        scales.append(float(state.log2_loss_scale))
    assert scales == [2.5, 2.0, 2.0]


def test_other_dtypes_have_no_loss_scale():
    train_step, state = make()
    after, metrics, _ = train_step(state, batch())
    assert float(after.log2_loss_scale) == 0
    assert "log2_loss_scale" not in metrics


def test_a_state_survives_being_taken_apart():
    train = defaults.TrainConfig(timestep_sampling="loss_second_moment")
    for sections in ({}, {"train": train}):
        _, state = make(**sections)
        assert_trees_equal(train_state.from_items(train_state.to_items(state)), state)


def test_a_loss_spike_is_skipped_once_there_is_an_average_to_compare_with():
    # A loss falls from 3 as w learns 0; a spike is a batch far from what it learnt.
    train_step, state = make(
        train=defaults.TrainConfig(skip_loss_above=3.0),
        optim=defaults.OptimConfig(learning_rate=1e-3),
    )
    state, metrics, details = train_step(state, batch(9.0))
    assert value(metrics, "skipped_updates") == 0, "nothing is known yet"
    for _ in range(step.LOSSES_BEFORE_SPIKES + 100):
        state, metrics, details = train_step(state, batch(0.0))
        assert value(metrics, "skipped_updates") == 0
    before = state
    state, metrics, details = train_step(before, batch(9.0))
    assert value(metrics, "loss_spikes") == value(metrics, "skipped_updates") == 1
    assert bool(details["loss_spike"])
    assert int(details["skipped_in_a_row"]) == 1
    np.testing.assert_array_equal(state.params["w"], before.params["w"])
    assert float(state.loss_average) == float(before.loss_average)
    state, metrics, details = train_step(state, batch(0.0))
    assert value(metrics, "skipped_updates") == 0
    assert int(details["skipped_in_a_row"]) == 0
