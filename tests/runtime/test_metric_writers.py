"""Rows come back as written, survive a kill, and are cut where a run resumes."""

import errno
import io
import json
import math
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.config import defaults
from glide_jax.errors import UserError
from glide_jax.runtime import metric_writers


def test_rows_come_back_in_order(tmp_path):
    with metric_writers.MetricsWriter(tmp_path) as writer:
        writer.scalars(1, {"loss": 0.5, "rate": jnp.float32(2)})
        writer.scalars(2, {"loss": np.float64(0.25)})
    assert metric_writers.read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 0.5, "rate": 2.0},
        {"step": 2, "loss": 0.25},
    ]


def test_values_that_json_lacks_survive(tmp_path):
    with metric_writers.MetricsWriter(tmp_path) as writer:
        writer.scalars(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
    path = tmp_path / "metrics.jsonl"
    strict = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert strict == {"step": 1, "a": "nan", "b": "inf", "c": "-inf"}
    (row,) = metric_writers.read_metrics(path)
    assert math.isnan(row["a"])
    assert (row["b"], row["c"]) == (math.inf, -math.inf)


def test_a_resumed_run_drops_later_rows_and_continues(tmp_path):
    with metric_writers.MetricsWriter(tmp_path) as writer:
        for step in (10, 20, 30):
            writer.scalars(step, {"loss": 1.0})
    with metric_writers.MetricsWriter(tmp_path) as writer:
        writer.truncate_after(20)
        writer.scalars(21, {"loss": 2.0})
    rows = metric_writers.read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [10, 20, 21]


def test_half_a_row_of_a_killed_process_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    assert [row["step"] for row in metric_writers.read_metrics(path)] == [1]
    with metric_writers.MetricsWriter(tmp_path) as writer:
        writer.scalars(2, {"loss": 2.0})
    assert [row["step"] for row in metric_writers.read_metrics(path)] == [1, 2]


@pytest.mark.parametrize(
    "tail", [b"\0" * 100 + b"\n", b'{"step": 3, "x": "\xff"}\n', b"5\n[1]\n", b"\0" * 9]
)
def test_rows_damaged_by_a_power_loss_are_dropped_with_a_warning(
    tmp_path, caplog, tail
):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 1.0}\n' + tail)
    assert [row["step"] for row in metric_writers.read_metrics(path)] == [1]
    with metric_writers.MetricsWriter(tmp_path) as writer:
        writer.scalars(2, {"loss": 2.0})
    assert [row["step"] for row in metric_writers.read_metrics(path)] == [1, 2]
    told = [line for line in caplog.messages if "unreadable lines" in line]
    # Half a last line is what every kill may leave.
    assert len(told) == tail.endswith(b"\n")


def test_a_whole_row_that_lacks_its_newline_is_a_row(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1.0}')
    with metric_writers.MetricsWriter(tmp_path) as writer:
        writer.scalars(2, {"loss": 2.0})
    assert [row["step"] for row in metric_writers.read_metrics(path)] == [1, 2]


class Refusing(io.FileIO):
    """A file on a disk that fails after half of the data."""

    def write(self, content):
        super().write(content[: len(content) // 2])
        raise OSError(errno.ESTALE, "Stale file handle")


def refuse_rows(monkeypatch, times):
    """Has so many writes of a row fail."""
    left, usual = [times], pathlib.Path.open

    def opened(path, mode="r", **settings):
        if mode == "ab" and left[0]:
            left[0] -= 1
            return Refusing(path, mode)
        return usual(path, mode, **settings)

    monkeypatch.setattr(pathlib.Path, "open", opened)
    monkeypatch.setattr(metric_writers, "WAITS_SECS", (0, 0))


def test_a_row_that_the_disk_refuses_once_is_written(tmp_path, monkeypatch):
    with metric_writers.MetricsWriter(tmp_path) as writer:
        writer.scalars(1, {"loss": 1.0})
        refuse_rows(monkeypatch, 2)
        writer.scalars(2, {"loss": 2.0})
        assert (writer.failure, writer.unwritten) == ("", [])
    rows = metric_writers.read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]


def test_rows_that_the_disk_refuses_are_handed_to_the_next_start(tmp_path, monkeypatch):
    with metric_writers.MetricsWriter(tmp_path) as writer:
        refuse_rows(monkeypatch, 3)
        writer.skipped(1, {"loss": math.nan})
        writer.scalars(1, {"loss": math.inf})
        assert "skipped.jsonl cannot be written (Stale file" in writer.failure
        kept = json.loads(json.dumps(writer.unwritten))
    with metric_writers.MetricsWriter(tmp_path) as writer:
        writer.truncate_after(1)
        writer.make_up_for(kept)
    (row,) = metric_writers.read_metrics(tmp_path / "metrics.jsonl")
    assert row == {"step": 1, "loss": math.inf}
    (row,) = metric_writers.read_metrics(tmp_path / "skipped.jsonl")
    assert math.isnan(row["loss"])


def test_tensorboard_gets_scalars_and_images(tmp_path):
    with metric_writers.MetricsWriter(tmp_path) as writer:
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
    with metric_writers.MetricsWriter(small_disk) as writer:
        writer.scalars(1, {"loss": 1.0})
        for step in range(1, 101):  # more than the disk, or any queue, holds
            writer.image(step, "grid", picture)
        (said,) = caplog.messages
        assert "No space left on device" in said
        for path in (small_disk / "tensorboard").iterdir():
            path.unlink()
        monkeypatch.setattr(metric_writers, "BOARD_PAUSE_SECS", 0)
        writer._board._closed_until = 0.0  # a minute later
        writer.scalars(101, {"later": 1.0})
    (events,) = (small_disk / "tensorboard").iterdir()
    assert b"later" in events.read_bytes()


def test_a_disabled_writer_leaves_no_trace(tmp_path):
    config = defaults.Config(log=defaults.LogConfig(wandb_project="glide"))
    with metric_writers.MetricsWriter(
        tmp_path / "run", config, enabled=False
    ) as writer:
        writer.scalars(1, {"loss": 1.0})
        writer.image(1, "samples", np.zeros((4, 4, 3), np.uint8))
        writer.truncate_after(0)
    assert not (tmp_path / "run").exists()


def test_the_newest_value_of_a_name_is_found(tmp_path):
    with metric_writers.MetricsWriter(tmp_path) as writer:
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
        with metric_writers.MetricsWriter(tmp_path, config) as writer:
            writer.scalars(step, {"loss": 0.5})
            writer.image(step, "grid", np.zeros((4, 6, 3), np.uint8))
    run_id = (tmp_path / "wandb" / "run_id").read_text()
    files = list((tmp_path / "wandb").glob(f"offline-run-*-{run_id}/*.wandb"))
    assert any(b"loss" in path.read_bytes() for path in files)
    assert list((tmp_path / "wandb").rglob("grid*.png"))


def test_only_a_run_that_asks_for_it_needs_weights_and_biases(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    metric_writers.check_wandb("")
    with pytest.raises(UserError, match=r"log.wandb_project='glide' needs"):
        metric_writers.check_wandb("glide")


def test_weights_and_biases_without_a_key_is_refused_before_the_run(
    tmp_path, monkeypatch
):
    pytest.importorskip("wandb", reason='needs pip install -e ".[wandb]"')
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="wandb login"):
        metric_writers.check_wandb("glide")
    metric_writers.check_wandb("glide", writes=False)
    for name, value in (
        ("WANDB_API_KEY", "0" * 40),
        ("WANDB_MODE", "offline"),
        ("WANDB_MODE", "disabled"),
    ):
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            metric_writers.check_wandb("glide")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password x")
    metric_writers.check_wandb("glide")
