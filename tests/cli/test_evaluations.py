"""Evaluations during training: rows and pictures of the average, cut off or not."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import pytest
from PIL import Image

from glide_jax import errors
from glide_jax.cli import dry_run, main
from glide_jax.config import resolve
from glide_jax.hooks import evaluations as evaluations_lib
from glide_jax.runtime import lifecycle, metric_writers
from glide_jax.train import loop, setup
from tests import local_processes
from tests.train import small_runs


@pytest.fixture(scope="module")
def config(make_config, clip_bundle, tmp_path_factory):
    """Evaluated after steps 2 and 4, on 6 pictures drawn 4 at once."""
    reference = tmp_path_factory.mktemp("reference") / "ref.npz"
    flags = ["--source=shapes:quickstart", "--px=8", "--max_images=12"]
    flags += [f"--features=clip:{clip_bundle}", f"--output={reference}"]
    assert main.run(["evaluate", "reference", *flags]) == 0
    changes = {
        "data.validation_sources": ("shapes:quickstart",),
        "log.validation_examples": 4,
        "sample.respacing": "2",
        "train.caption_drop_prob": 0.2,
        "evaluate.every_steps": 2,
        "evaluate.features": f"clip:{clip_bundle}",
        "evaluate.reference": str(reference),
        "evaluate.num_images": 6,
        "evaluate.batch_size": 4,
    }
    return resolve.override(make_config(), changes)


def train(config, folder):
    return loop.train(config, folder, make_evaluation_hook=evaluations_lib.make)


def evaluations(folder):
    """Rows by step, without the columns of training itself."""
    rows = metric_writers.read_metrics(folder / "metrics.jsonl")
    found = {
        row["step"]: {k: v for k, v in row.items() if k.startswith("evaluation/")}
        for row in rows
    }
    return {step: row for step, row in found.items() if row}


@pytest.mark.slow
def test_an_evaluation_leaves_a_row_and_a_picture_cut_off_or_not(
    config, tmp_path, monkeypatch
):
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    assert train(config, straight) == lifecycle.ExitCode.OK
    rows = evaluations(straight)
    assert rows.keys() == {2, 4}
    names = ("fid", "kid", "precision", "recall")
    assert {f"evaluation/noised_clip_{name}" for name in names} <= rows[2].keys()
    assert rows[2] != rows[4]
    pictures = sorted(path.name for path in (straight / "evaluations").iterdir())
    assert pictures == ["00000002.png", "00000004.png"]
    with Image.open(straight / "evaluations" / pictures[1]) as picture:
        assert picture.size == (460, 318)  # six enlarged ones in rows of three

    draw, drawn = evaluations_lib._Evaluation._next_batch, []

    def draw_and_stop(self, params, first):
        drawn.append(first)
        if len(drawn) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(self, params, first)

    monkeypatch.setattr(evaluations_lib._Evaluation, "_next_batch", draw_and_stop)
    assert train(config, cut) == lifecycle.ExitCode.PREEMPTED
    assert evaluations(cut) == {}
    assert train(config, cut) == lifecycle.ExitCode.OK
    # The batch that was drawn when the signal came was kept.
    assert drawn == [0, 4, 0, 4]
    assert sorted(path.name for path in (cut / "evaluations").iterdir()) == pictures
    assert evaluations(cut) == rows
    for name in pictures:
        ours, theirs = (
            np.asarray(Image.open(folder / "evaluations" / name))
            for folder in (straight, cut)
        )
        np.testing.assert_array_equal(ours, theirs)
    # There is nothing left to do.
    assert train(config, cut) == lifecycle.ExitCode.OK
    assert drawn == [0, 4, 0, 4]


@pytest.mark.slow
def test_seen_batches_are_kept_until_the_row_is_written(config, tmp_path, monkeypatch):
    class FullError(Exception):
        pass

    def write(self, step, row):
        if any(name.startswith("evaluation/") for name in row):
            raise FullError
        return scalars(self, step, row)

    scalars = metric_writers.MetricsWriter.scalars
    monkeypatch.setattr(metric_writers.MetricsWriter, "scalars", write)
    short = resolve.override(config, {"train.num_steps": 1, "evaluate.every_steps": 1})
    with pytest.raises(FullError):
        train(short, tmp_path)
    assert (tmp_path / "evaluations" / "00000001.parts" / "settings.json").exists()


def test_a_step_is_evaluated_again_after_a_rollback(config, tmp_path, monkeypatch):
    """Names of messages between processes are used once."""
    names = []

    def from_first(name, make):
        assert name not in names
        names.append(name)
        return make()

    run, _ = setup.prepare(config, tmp_path)
    evaluation = evaluations_lib.make(run)
    monkeypatch.setattr(evaluations_lib.distributed, "from_first", from_first)
    assert [evaluation._open_parts(2)[1] for _ in range(2)] == [0, 0]


def test_a_reference_that_does_not_fit_is_refused_at_the_start(config, tmp_path):
    odd = tmp_path / "odd.npz"
    np.savez(odd, arr_0=np.zeros((4, 16, 16, 3), np.uint8))
    other = resolve.override(config, {"evaluate.reference": str(odd)})
    for start in (
        lambda: train(other, tmp_path / "run"),
        lambda: dry_run.check(other, tmp_path / "dry"),
    ):
        with pytest.raises(errors.UserError, match="of pictures of 16 px, not 8 px"):
            start()
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"evaluate.features": "clip:absent"}, "absent"),
        ({"evaluate.features": "vgg:absent"}, "vgg:absent"),
        ({"evaluate.reference": "absent.npz"}, "absent.npz"),
        ({"evaluate.batch_size": 0}, "evaluate.batch_size=0"),
    ],
)
def test_a_dry_run_reads_the_inputs_of_evaluations(config, changes, named):
    dry_run.check(config)
    with pytest.raises(errors.UserError, match=named):
        dry_run.check(resolve.override(config, changes))


@pytest.mark.slow
def test_two_processes_find_the_figures_of_one(config, tmp_path):
    config = resolve.override(config, {"train.num_steps": 1, "evaluate.every_steps": 1})
    experiment = small_runs.write_experiment(tmp_path / "experiment.py", config)
    one, two = tmp_path / "one", tmp_path / "two"
    command = [sys.executable, "-m", "glide_jax.cli.main", "train"]
    command += [f"--config={experiment}", f"--workdir={two}"]
    local_processes.run(tmp_path / "logs", command, processes=2, devices=2)
    assert train(config, one) == lifecycle.ExitCode.OK
    pictures = [
        np.asarray(Image.open(folder / "evaluations" / "00000001.png"), np.int32)
        for folder in (one, two)
    ]
    # A value near the middle of two levels may be rounded to either.
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    # Which moves the features of six pictures a little.
    assert evaluations(two)[1] == pytest.approx(evaluations(one)[1], rel=1e-2, abs=1e-3)
