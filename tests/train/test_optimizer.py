"""Learning rates by hand; what the update does to matrices and to vectors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from glide_jax.config import choices, defaults
from glide_jax.train import optimizer
from tests.train.small_runs import assert_trees_equal


def rates(num_steps=10, steps=range(10), **settings):
    config = defaults.OptimConfig(learning_rate=1.0, **settings)
    schedule = optimizer.make_learning_rate(config, num_steps)
    return [float(schedule(jnp.int32(step))) for step in steps]


def test_a_constant_rate_is_constant():
    assert rates() == [1.0] * 10


def test_warm_up_rises_in_equal_parts_from_the_first_step_to_the_peak():
    found = rates(warmup_steps=4)
    np.testing.assert_allclose(found[:6], [0.25, 0.5, 0.75, 1.0, 1.0, 1.0], rtol=1e-6)
    assert rates(warmup_steps=1) == [1.0] * 10


def test_linear_falls_to_zero_over_the_steps_after_warm_up():
    found = rates(schedule="linear", warmup_steps=2, steps=[1, 2, 4, 6, 10, 12])
    np.testing.assert_allclose(found, [1.0, 1.0, 0.75, 0.5, 0.0, 0.0], atol=1e-6)


def test_cosine_falls_by_half_a_wave_after_warm_up():
    found = rates(schedule="cosine", warmup_steps=2, steps=[2, 4, 6, 8, 10])
    wave = [(1 + np.cos(np.pi * k / 4)) / 2 for k in range(5)]
    np.testing.assert_allclose(found, wave, atol=1e-6)


def test_the_first_update_is_adams_by_hand():
    # First step, bias corrected: g / (|g| + eps), the sign of the gradient.
    config = defaults.OptimConfig()
    optim = optimizer.make_optimizer(config)
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    grads = {"w": jnp.full((2, 2), 3.0), "b": jnp.full(2, -0.1)}
    updates, _ = optim.update(grads, optim.init(params), params)
    np.testing.assert_allclose(updates["w"], 1.0, rtol=1e-5)
    np.testing.assert_allclose(updates["b"], -1.0, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adamw_is_optaxs(dtype):
    config = defaults.OptimConfig(b1=0.8, b2=0.99, eps=1e-4, moments_dtype=dtype)
    ours = optimizer.RULES["adamw"](config)
    theirs = optax.scale_by_adam(b1=0.8, b2=0.99, eps=1e-4, mu_dtype=jnp.dtype(dtype))
    params = {"w": jnp.ones((3, 5)), "b": jnp.ones(5)}
    states = [ours.init(params), theirs.init(params)]
    for seed in range(3):
        grads = optax.tree.random_like(jax.random.key(seed), params)
        found, states[0] = ours.update(grads, states[0], params)
        expected, states[1] = theirs.update(grads, states[1], params)
        assert_trees_equal(found, expected)
        assert_trees_equal(*states)


@pytest.mark.parametrize("name", choices.OPTIMIZERS)
def test_a_skipped_update_leaves_the_moments(name):
    optim = optimizer.make_optimizer(defaults.OptimConfig(name=name))
    params = {"w": jnp.ones((4, 4))}
    grads = {"w": jnp.full((4, 4), 0.3)}
    _, before = optim.update(grads, optim.init(params), params)
    bad = {"w": jnp.full((4, 4), jnp.nan)}
    _, after = optim.update(bad, before, params, is_good=jnp.bool_(False))
    assert_trees_equal(after, before)


def test_kernels_and_tables_decay_and_what_shifts_or_scales_a_channel_does_not():
    optim = optimizer.make_optimizer(defaults.OptimConfig(weight_decay=0.1))
    params = {
        "stem": {"kernel": jnp.full((3, 3, 2, 2), 2.0), "bias": jnp.full(2, 2.0)},
        # Layers are stacked: a bias of each makes a matrix.
        "layers": {
            "kernel": jnp.full((3, 2, 2), 2.0),
            "bias": jnp.full((3, 2), 2.0),
            "scale": jnp.full((3, 2), 2.0),
        },
        "embedding": jnp.full((5, 2), 2.0),
        "logit_scale": jnp.float32(2.0),
    }
    grads = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optim.update(grads, optim.init(params), params)
    decayed = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
        if np.any(leaf)
    }
    assert decayed == {"stem/kernel", "layers/kernel", "embedding"}
    np.testing.assert_allclose(updates["embedding"], 0.2, rtol=1e-6)


@pytest.mark.parametrize(("norm", "expected"), [(0.0, 5.0), (1.0, 1.0), (9.0, 5.0)])
def test_the_gradient_is_clipped_to_its_global_norm(norm, expected):
    # With b1 = 0 the first moment is the gradient that Adam was given.
    config = defaults.OptimConfig(grad_clip_norm=norm, b1=0.0)
    optim = optimizer.make_optimizer(config)
    params = {"a": jnp.zeros(1), "b": jnp.zeros((1, 1))}
    grads = {"a": jnp.full(1, 3.0), "b": jnp.full((1, 1), 4.0)}
    _, state = optim.update(grads, optim.init(params), params)
    moments = next(part for part in state if hasattr(part, "mu")).mu
    found = np.hypot(float(moments["a"][0]), float(moments["b"][0, 0]))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_settings_name_the_optimizers_there_are():
    assert tuple(optimizer.RULES) == choices.OPTIMIZERS


def test_lions_first_update_is_the_gradients_sign():
    config = defaults.OptimConfig(name="lion")
    optim = optimizer.make_optimizer(config)
    params = {"w": jnp.ones(3)}
    grads = {"w": jnp.array([3.0, -0.1, 0.0])}
    updates, state = optim.update(grads, optim.init(params), params)
    np.testing.assert_array_equal(updates["w"], [1.0, -1.0, 0.0])
    # m = (1 - b2) g
    mu = next(x for x in jax.tree.leaves(state) if x.shape == (3,))
    np.testing.assert_allclose(mu, 0.001 * grads["w"], rtol=1e-4)


def test_adafactor_keeps_rows_and_columns_instead_of_a_matrix():
    params = {"w": jnp.ones((256, 128))}
    config = defaults.OptimConfig(name="adafactor", b1=0.0)
    optim = optimizer.make_optimizer(config)
    state = optim.init(params)
    assert sum(x.size for x in jax.tree.leaves(state)) < 256 + 128 + 10
    # g = r c^T has second moments that factor exactly, so the update is its sign.
    grads = {"w": jnp.outer(jnp.linspace(0.5, 2, 256), jnp.linspace(-1, 3, 128))}
    updates, _ = optim.update(grads, state, params)
    np.testing.assert_allclose(updates["w"], jnp.sign(grads["w"]), rtol=1e-3)


@pytest.mark.parametrize("name", choices.OPTIMIZERS)
def test_first_moments_may_be_half_as_wide(name):
    params = {"w": jnp.ones((4, 4))}
    config = defaults.OptimConfig(name=name, moments_dtype="bfloat16")
    optim = optimizer.make_optimizer(config)
    state = optim.init(params)
    assert jnp.dtype("bfloat16") in {x.dtype for x in jax.tree.leaves(state)}
    updates, state = optim.update({"w": jnp.full((4, 4), 0.3)}, state, params)
    assert (params["w"] - jnp.float32(0.1) * updates["w"]).dtype == jnp.float32
    assert jnp.dtype("bfloat16") in {x.dtype for x in jax.tree.leaves(state)}


@pytest.mark.parametrize(
    ("schedule", "num_steps", "steps"),
    [
        ("cosine", 101, 100),
        ("cosine", 100, 10),
        ("linear", 30, 3),
        ("linear", 5, 0),
        ("constant", 30, 100),  # it has no step to decay in, and needs none
    ],
)
def test_a_run_that_ends_within_its_warm_up_warms_up_for_a_tenth(
    schedule, num_steps, steps
):
    config = defaults.OptimConfig(schedule=schedule, warmup_steps=100)
    assert optimizer.warmup_steps(config, num_steps) == steps


def test_a_short_warm_up_decays_like_a_configured_one():
    short = rates(num_steps=30, schedule="cosine", warmup_steps=100, steps=range(30))
    assert short == rates(30, schedule="cosine", warmup_steps=3, steps=range(30))
