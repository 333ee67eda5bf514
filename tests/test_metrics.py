"""Rows come back as written, survive a kill, and are cut where a run resumes."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax import metrics


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


def test_a_disabled_writer_leaves_no_trace(tmp_path):
    with metrics.MetricsWriter(tmp_path / "run", enabled=False) as writer:
        writer.scalars(1, {"loss": 1.0})
        writer.image(1, "samples", np.zeros((4, 4, 3), np.uint8))
        writer.truncate_after(0)
    assert not (tmp_path / "run").exists()
