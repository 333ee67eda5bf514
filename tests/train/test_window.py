"""A row has the means of its own steps."""

from __future__ import annotations

import jax.numpy as jnp

from glide_jax.config import defaults
from glide_jax.train import clock, speed, window
from tests.train.small_runs import CLIP

CONFIG = defaults.Config(model=CLIP, train=defaults.TrainConfig(global_batch_size=4))


def make_window():
    return window.Window(clock.Clock(), speed.Meter(CONFIG))


def pair(total, count):
    return jnp.float32(total), jnp.float32(count)


def test_means_weigh_every_example_alike_and_leave_out_what_was_not_seen():
    seen = make_window()
    seen.add({"loss": pair(6, 2), "loss_q0": pair(0, 0), "rare": pair(0, 0)})
    seen.add({"loss": pair(2, 6), "loss_q0": pair(3, 1), "rare": pair(0, 0)})
    row = seen.row(2)
    assert row["loss"] == 1.0
    assert row["loss_q0"] == 3.0
    assert "rare" not in row


def test_each_window_starts_anew():
    seen = make_window()
    seen.add({"loss": pair(5, 1)})
    assert seen.row(1)["loss"] == 5.0
    seen.add({"loss": pair(1, 1)})
    assert seen.row(2)["loss"] == 1.0


def test_a_pause_begins_when_the_devices_have_ended_the_step():
    seen = make_window()
    seen.add({"loss": pair(1, 1), "skipped_updates": pair(1, 1)})
    assert seen.skipped_in_a_row == 0, "read one step late"
    with seen.pause("checkpoint"):
        assert seen.skipped_in_a_row == 1
    assert seen.row(1)["speed/checkpoint_seconds"] > 0


def test_updates_skipped_are_counted_until_one_is_made():
    seen = make_window()
    for skipped in (1, 0, 1, 1):
        seen.add({"loss": pair(1, 1), "skipped_updates": pair(skipped, 1)})
    seen.row(4)
    assert seen.skipped_in_a_row == 2
