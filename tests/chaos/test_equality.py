"""Two runs count as equal only where all that they leave is."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from glide_jax.train import loop, setup
from tests.chaos import equality
from tests.train import small_runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(settings, workdir) of a run of two steps, with a grid and a skipped update."""
    folder = tmp_path_factory.mktemp("finished")
    tokenizer = small_runs.write_tokenizer(folder / "tokenizer")
    changes = {"train.num_steps": 2, "log.every_steps": 2}
    config = small_runs.make_config(tokenizer, small_runs.CLIP, changes)
    loop.train(config, folder / "run")
    (folder / "run" / "grids").mkdir()
    Image.new("RGB", (2, 2)).save(folder / "run" / "grids" / "00000002.png")
    (folder / "run" / "skipped.jsonl").write_text('{"step": 1}\n')
    return config, folder / "run"


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[1], tmp_path / "copy")


def change_row(run):
    """The last bit of a loss."""
    path = run / "metrics.jsonl"
    *lines, last = path.read_text().splitlines()
    row = json.loads(last)
    row["loss"] = float(np.nextafter(row["loss"], 0))
    path.write_text("\n".join([*lines, json.dumps(row)]) + "\n")


def double_row(run):
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[-1]]))


def test_a_copy_is_equal_whatever_the_clock_said(finished, copy):
    config, run = finished
    path = copy / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert any("speed/step_seconds" in row for row in rows)
    rows = [row | {"speed/step_seconds": 0.5} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = equality.check_same(config, run, copy)
    assert found["arrays"] > 50
    assert (found["rows of metrics.jsonl"], found["grids/*"]) == (2, 1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_row, "metrics.jsonl: .*loss"),
        (double_row, "metrics.jsonl: 2 and 3 rows"),
        (lambda run: (run / "skipped.jsonl").unlink(), "skipped.jsonl: 12 and no"),
        (lambda run: (run / "bad_records.jsonl").write_text("{}\n"), "no and 3 bytes"),
        (lambda run: (run / "grids" / "00000002.png").write_bytes(b""), "grids/000"),
    ],
    ids=["another loss", "a row twice", "no skipped", "bad records", "another grid"],
)
def test_a_difference_in_a_file_is_named(finished, copy, change, named):
    config, run = finished
    change(copy)
    with pytest.raises(AssertionError, match=named):
        equality.check_same(config, run, copy)


def test_one_bit_of_one_average_is_named(finished, copy):
    config, original = finished
    run, state = setup.prepare(config, copy)
    averages = jax.tree.map(np.asarray, state.ema_params)
    averages["0.5"]["logit_scale"] = np.nextafter(averages["0.5"]["logit_scale"], 0)
    state = dataclasses.replace(state, ema_params=averages)
    run.save(state, 3, run.past)
    run.checkpoints.close()
    states = (equality.last_state(config, folder) for folder in (original, copy))
    told = list(equality.differences(original, copy, *states))
    assert told == ["state.ema_params['0.5']['logit_scale']"]
