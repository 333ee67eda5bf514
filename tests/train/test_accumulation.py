"""A batch in parts gives the gradient of the whole batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.train import objectives, step
from tests.train import mesh_runs

# float32 sums in another order.
ROUNDING = 1e-5


def test_parts_hold_every_row_once_and_come_back_in_order():
    rows = np.arange(12 * 3).reshape(12, 3)
    parts = step.split_rows({"x": rows}, 4)["x"]
    assert parts.shape == (4, 3, 3)
    # Row r is in part r % 4: neighbours, which lie on one device, go to all parts.
    np.testing.assert_array_equal(parts[1], rows[1::4])
    np.testing.assert_array_equal(step.join_rows(parts), rows)


# The base model samples timesteps by loss, so that it has a history.
CHANGES = {"base": {"train.timestep_sampling": "loss_second_moment"}, "clip": {}}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_batch_in_parts_trains_as_the_whole_with_dropout_on(kind):
    config = mesh_runs.make_config(kind, CHANGES[kind])
    mesh = mesh_runs.make_mesh(1, 1, 1)
    whole = mesh_runs.run(config, mesh, steps=2)
    changes = CHANGES[kind] | {"train.microbatches": 4}
    found = mesh_runs.run(mesh_runs.make_config(kind, changes), mesh, steps=2)
    plain = mesh_runs.make_config(kind)  # whose gradient needs no history
    mesh_runs.assert_same(found, whole, plain, rtol=ROUNDING)

    assert found.metrics.keys() == whole.metrics.keys()
    for name, (total, count) in whole.metrics.items():
        assert float(found.metrics[name][1]) == float(count), name
        np.testing.assert_allclose(
            found.metrics[name][0], total, rtol=1e-4, err_msg=name
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4),
        found.state.resampler,
        whole.state.resampler,
    )


def test_a_contrast_of_parts_alone_would_be_another_loss():
    # What the features are cached for: each part's own contrast has fewer wrong pairs.
    config = mesh_runs.make_config("clip")
    batch = mesh_runs.make_batch(config, 0)
    objective = objectives.make_objective(config, 0)
    params = objective.init(jax.random.key(0))

    @jax.jit
    def loss(rows):
        def keys_of(stream):
            del stream
            return jax.vmap(jax.random.key)(jnp.asarray(rows["example_index"]))

        return objective.loss(params, rows, keys_of, {})[0]

    parts = step.split_rows(batch, 4)
    apart = np.mean([loss({n: x[i] for n, x in parts.items()}) for i in range(4)])
    assert abs(apart - loss(batch)) > 0.5


@pytest.mark.parametrize("kind", ["clip", pytest.param("base", marks=pytest.mark.slow)])
def test_validation_in_parts_has_the_metrics_of_the_whole_batch(kind):
    def measured(parts):
        config = mesh_runs.make_config(kind, {"train.microbatches": parts})
        objective = objectives.make_objective(config, 0, is_training=False)
        params = objective.init(jax.random.key(0))
        eval_step = jax.jit(step.make_eval_step(config, objective))
        return eval_step(params, mesh_runs.make_batch(config, 0), 0)

    whole, in_parts = measured(1), measured(4)
    assert whole.keys() == in_parts.keys()
    for name, (total, count) in whole.items():
        assert float(in_parts[name][1]) == float(count), name
        np.testing.assert_allclose(in_parts[name][0], total, rtol=1e-4, err_msg=name)
