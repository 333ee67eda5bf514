"""The resampler against the released code, and the laws of importance sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.diffusion import timestep_sampling


def _push_one_by_one(history, counts, t, losses):
    """The reference's update: each loss in turn, oldest out."""
    for row, loss in zip(t, losses, strict=True):
        if counts[row] == history.shape[1]:
            history[row] = np.append(history[row, 1:], loss)
        else:
            history[row, counts[row]] = loss
            counts[row] += 1


def test_probabilities_follow_the_reference(golden_resampler):
    state = timestep_sampling.init_loss_second_moment(20, history=4)
    update = jax.jit(timestep_sampling.update_loss_second_moment)
    assert len(golden_resampler) == 12
    for record in golden_resampler:
        state = update(state, np.array(record["t"]), np.float32(record["losses"]))
        p = timestep_sampling.loss_second_moment_probabilities(state)
        np.testing.assert_allclose(p, record["p"], atol=1e-6)  # float32 against float64


@pytest.mark.parametrize("batch", [1, 7, 200])
def test_a_batch_equals_its_losses_pushed_one_by_one(batch):
    state = timestep_sampling.init_loss_second_moment(6, history=4)
    history, counts = np.zeros((6, 4), np.float32), np.zeros(6, np.int32)
    update = jax.jit(timestep_sampling.update_loss_second_moment)
    draws = np.random.RandomState(0)
    for _ in range(9):
        # Timestep 5 stays out, and 0 comes often enough to overflow in one batch.
        t = draws.randint(0, 5, batch) * draws.randint(0, 2, batch)
        losses = draws.standard_normal(batch).astype(np.float32)
        state = update(state, t, losses)
        _push_one_by_one(history, counts, t, losses)
        np.testing.assert_array_equal(state.history, history)
        np.testing.assert_array_equal(state.counts, counts)


def test_the_state_may_hold_shapes_and_shardings():
    state = timestep_sampling.init_loss_second_moment(8)
    spec = jax.eval_shape(lambda tree: tree, state)
    assert spec.history.shape == (8, 10)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    assert jax.tree.map(lambda _: sharding, state).counts is sharding


def test_probabilities_are_uniform_until_every_timestep_is_full():
    update = jax.jit(timestep_sampling.update_loss_second_moment)
    state = timestep_sampling.init_loss_second_moment(3, history=2)
    t, losses = np.array([0, 0, 1, 1, 2]), np.float32([1, 1, 2, 2, 5])
    state = update(state, t, losses)
    p = timestep_sampling.loss_second_moment_probabilities(state)
    np.testing.assert_allclose(p, 1 / 3, rtol=1e-6)
    state = update(state, t[-1:], losses[-1:])
    p = timestep_sampling.loss_second_moment_probabilities(state, uniform_prob=0.0)
    np.testing.assert_allclose(p, np.array([1, 2, 5]) / 8, rtol=1e-6)


def test_uniform_covers_the_chain_with_weight_1(image_keys):
    t, weights = jax.jit(timestep_sampling.uniform, static_argnums=1)(
        image_keys(4000), 8
    )
    assert t.dtype == jnp.int32
    np.testing.assert_array_equal(weights, 1)
    # 500 expected per timestep, deviation 21: five of them.
    np.testing.assert_allclose(np.bincount(t, minlength=8), 500, atol=105)


def test_draws_follow_their_probabilities_and_weights_undo_them(image_keys):
    p = np.float32([0.1, 0.2, 0.3, 0.4])
    t, weights = jax.jit(timestep_sampling.draw)(image_keys(4000), p)
    # The widest deviation of 4000 draws is 31: five of them.
    np.testing.assert_allclose(np.bincount(t, minlength=4), 4000 * p, atol=155)
    np.testing.assert_allclose(weights, 1 / (4 * p[t]), rtol=1e-6)


def test_a_timestep_without_probability_is_never_drawn(image_keys):
    p = np.float32([0.5, 0, 0.5])
    t, weights = jax.jit(timestep_sampling.draw)(image_keys(500), p)
    assert set(np.asarray(t)) == {0, 2}
    assert np.isfinite(weights).all()


def test_an_example_keeps_its_t_in_any_batch(image_keys):
    keys, p = image_keys(9), timestep_sampling.power_probabilities(1000, 1.0)
    for sample in (
        jax.jit(lambda keys: timestep_sampling.uniform(keys, 1000)),
        jax.jit(lambda keys: timestep_sampling.draw(keys, p)),
    ):
        np.testing.assert_array_equal(sample(keys)[0][4:6], sample(keys[4:6])[0])


def test_power_0_is_uniform_and_a_positive_power_prefers_noise():
    flat = timestep_sampling.power_probabilities(10, 0.0)
    np.testing.assert_allclose(flat, 0.1, rtol=1e-6)
    steep = timestep_sampling.power_probabilities(10, 2.0)
    np.testing.assert_allclose(steep, np.arange(1, 11) ** 2 / 385, rtol=1e-6)
