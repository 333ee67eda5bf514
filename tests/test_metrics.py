"""Rows come back as written, survive a kill, and are cut where a run resumes."""

import json
import math
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax import metrics
from glide_jax.config import defaults
from glide_jax.errors import UserError


def test_rows_come_back_in_order(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.scalars(1, {"loss": 0.5, "rate": jnp.float32(2)})
        writer.scalars(2, {"loss": np.float64(0.25)})
    assert metrics.read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 0.5, "rate": 2.0},
        {"step": 2, "loss": 0.25},
    ]


def test_values_that_json_lacks_survive(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.scalars(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
    path = tmp_path / "metrics.jsonl"
    strict = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert strict == {"step": 1, "a": "nan", "b": "inf", "c": "-inf"}
    (row,) = metrics.read_metrics(path)
    assert math.isnan(row["a"])
    assert (row["b"], row["c"]) == (math.inf, -math.inf)


def test_a_resumed_run_cuts_later_rows_and_goes_on(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        for step in (10, 20, 30):
            writer.scalars(step, {"loss": 1.0})
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.truncate_after(20)
        writer.scalars(21, {"loss": 2.0})
    rows = metrics.read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [10, 20, 21]


def test_half_a_row_of_a_killed_process_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    assert [row["step"] for row in metrics.read_metrics(path)] == [1]
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.scalars(2, {"loss": 2.0})
    assert [row["step"] for row in metrics.read_metrics(path)] == [1, 2]


def test_tensorboard_gets_scalars_and_images(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.scalars(1, {"train/loss": 0.5})
        writer.image(1, "samples", np.zeros((4, 6, 3), np.uint8))
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"train/loss" in content
    assert b"samples" in content
    assert b"\x89PNG" in content


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes rights that this process lacks")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_holds_up_no_row_for_tensorboard(small_disk, caplog, monkeypatch):
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with metrics.MetricsWriter(small_disk) as writer:
        writer.scalars(1, {"loss": 1.0})
        for step in range(1, 101):  # more than the disk, or any queue, holds
            writer.image(step, "grid", picture)
        (said,) = caplog.messages
        assert "No space left on device" in said
        for path in (small_disk / "tensorboard").iterdir():
            path.unlink()
        monkeypatch.setattr(metrics, "BOARD_PAUSE_SECS", 0)
        writer._board._closed_until = 0.0  # a minute later
        writer.scalars(101, {"later": 1.0})
    (events,) = (small_disk / "tensorboard").iterdir()
    assert b"later" in events.read_bytes()


def test_a_disabled_writer_leaves_no_trace(tmp_path):
    config = defaults.Config(log=defaults.LogConfig(wandb_project="glide"))
    with metrics.MetricsWriter(tmp_path / "run", config, enabled=False) as writer:
        writer.scalars(1, {"loss": 1.0})
        writer.image(1, "samples", np.zeros((4, 4, 3), np.uint8))
        writer.truncate_after(0)
    assert not (tmp_path / "run").exists()


def test_the_newest_value_of_a_name_is_found(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        assert writer.last("hours", default=0.0) == 0.0
        writer.scalars(1, {"hours": 2.0})
        writer.scalars(2, {"loss": 1.0})
        assert writer.last("hours", default=0.0) == 2.0
        assert writer.last("days", default=0.5) == 0.5


def test_all_starts_of_a_workdir_are_one_run_of_weights_and_biases(
    tmp_path, monkeypatch
):
    pytest.importorskip("wandb", reason='needs pip install -e ".[wandb]"')
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = defaults.Config(log=defaults.LogConfig(wandb_project="glide"))
    for step in (1, 2):
        with metrics.MetricsWriter(tmp_path, config) as writer:
            writer.scalars(step, {"loss": 0.5})
            writer.image(step, "grid", np.zeros((4, 6, 3), np.uint8))
    run_id = (tmp_path / "wandb" / "run_id").read_text()
    files = list((tmp_path / "wandb").glob(f"offline-run-*-{run_id}/*.wandb"))
    assert any(b"loss" in path.read_bytes() for path in files)
    assert list((tmp_path / "wandb").rglob("grid*.png"))


def test_only_a_run_that_asks_for_it_needs_weights_and_biases(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    metrics.check_wandb("")
    with pytest.raises(UserError, match=r"log.wandb_project='glide' needs"):
        metrics.check_wandb("glide")
