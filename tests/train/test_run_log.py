"""A row has the means of its own steps."""

from __future__ import annotations

import json

import jax.numpy as jnp

from glide_jax.config import defaults
from glide_jax.train import run_log
from tests.train.small_runs import CLIP

CONFIG = defaults.Config(model=CLIP, train=defaults.TrainConfig(global_batch_size=4))


def make_window():
    return run_log.MetricAccumulator(run_log.StepTimer(), run_log.Throughput(CONFIG))


def pair(total, count):
    return jnp.float32(total), jnp.float32(count)


def details(skipped_in_a_row=0):
    return {
        "skipped_in_a_row": jnp.int32(skipped_in_a_row),
        "loss_spike": jnp.bool_(False),
        "timestep": jnp.arange(2),
    }


def test_means_weigh_every_example_equally_and_leave_out_missing_ones():
    seen = make_window()
    seen.add(
        1, {"loss": pair(6, 2), "loss_q0": pair(0, 0), "rare": pair(0, 0)}, details()
    )
    seen.add(
        2, {"loss": pair(2, 6), "loss_q0": pair(3, 1), "rare": pair(0, 0)}, details()
    )
    row = seen.row(2)
    assert row["loss"] == 1.0
    assert row["loss_q0"] == 3.0
    assert "rare" not in row


def test_the_learning_rate_is_that_of_the_last_step():
    seen = make_window()
    for step, rate in enumerate((1.0, 0.5, 0.25), start=1):
        seen.add(step, {"learning_rate": pair(rate, 1)}, details())
    assert seen.row(3)["learning_rate"] == 0.25


def test_each_window_starts_empty():
    seen = make_window()
    seen.add(3, {"loss": pair(5, 1)}, details())
    assert seen.row(1)["loss"] == 5.0
    seen.add(4, {"loss": pair(1, 1)}, details())
    assert seen.row(2)["loss"] == 1.0


def test_a_window_continues_from_its_sums():
    cut, whole = make_window(), make_window()
    for step, total in enumerate((5, 1, 2), start=1):
        whole.add(step, {"loss": pair(total, 1)}, details())
    cut.add(1, {"loss": pair(5, 1)}, details())
    sums = json.loads(json.dumps(cut.sums()))
    cut = make_window()
    cut.rewind(sums)
    cut.add(2, {"loss": pair(1, 1)}, details())
    cut.add(3, {"loss": pair(2, 1)}, details())
    assert cut.row(3)["loss"] == whole.row(3)["loss"]


def test_a_pause_begins_when_the_devices_have_ended_the_step():
    seen = make_window()
    seen.add(1, {"loss": pair(1, 1)}, details(skipped_in_a_row=1))
    assert seen.skipped_in_a_row == 0, "read one step late"
    with seen.pause("checkpoint"):
        assert seen.skipped_in_a_row == 1
    assert seen.row(1)["speed/checkpoint_seconds"] > 0


def test_skipped_updates_are_logged_and_counted_until_one_is_made():
    told = []
    seen = run_log.MetricAccumulator(
        run_log.StepTimer(),
        run_log.Throughput(CONFIG),
        on_skipped=lambda step, record: told.append((step, record["timestep"])),
    )
    for step, in_a_row in enumerate((1, 0, 1, 2), start=1):
        seen.add(step, {"loss": pair(1, 1)}, details(in_a_row))
    seen.row(4)
    assert seen.skipped == range(3, 5)
    assert told == [(1, [0, 1]), (3, [0, 1]), (4, [0, 1])]
    seen.skip_batch()
    assert seen.skipped_in_a_row == 0
