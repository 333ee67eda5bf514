"""A sweep of four training runs, killed in the middle and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from glide_jax.cli import main
from glide_jax.sweep import run_list, state
from tests import local_processes
from tests.sweep import training_sweeps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS = 40
RUNS = (
    # Of the data alone, so that all but the first run find their program compiled.
    "product(listed('data.flip_prob', [0.0, 1.0]), "
    "listed('data.prefetch_batches', [2, 4]))"
)
SAVED = "checkpoints/8/manifest.json"
WAITED_SECS = 600


def start(path, root, log) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "glide_jax.cli.main", "sweep", path, f"--root={root}"],
        env=local_processes.environment(JAX_PLATFORMS="cpu"),
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def wait_for(is_true, log_path) -> None:
    end = time.monotonic() + WAITED_SECS
    while not is_true():
        assert time.monotonic() < end, log_path.read_text()
        time.sleep(0.02)


def test_a_killed_sweep_resumes(tmp_path, capsys):
    path = training_sweeps.write(tmp_path, RUNS, STEPS)
    root, log_path = tmp_path / "root", tmp_path / "log"
    with log_path.open("w") as log:
        driver = start(path, root, log)
        with local_processes.ended(driver):
            wait_for((root / "plan.json").is_file, log_path)
            runs = run_list.read(root).runs
            entries = [state.RunRecord(root, run.id) for run in runs]
            third = entries[2]
            # Written last, it says that the first checkpoint is whole.
            wait_for((third.folder / SAVED).is_file, log_path)
            # The driver, what it has started, and the training below that.
            os.killpg(driver.pid, signal.SIGKILL)
        wait_for(lambda: not third.is_locked(), log_path)
        before = training_sweeps.steps(third.folder)
        assert 8 <= before[-1] < STEPS
        kept = ["finished", "finished", "cut off", "waiting"]
        assert [entry.state() for entry in entries] == kept

        driver = start(path, root, log)
        with local_processes.ended(driver):
            assert driver.wait(WAITED_SECS) == 0, log_path.read_text()

    assert {entry.state() for entry in entries} == {"finished"}
    attempts = [[one.code for one in entry.attempts()] for entry in entries]
    assert attempts == [[0], [0], [None, 0], [0]], "none is run twice"
    for entry in entries:
        assert training_sweeps.steps(entry.folder) == list(range(1, STEPS + 1))
    # It went on from a checkpoint: the first step was made once.
    assert third.log.read_text().count("step 1:") == 1

    rows_path = tmp_path / "small.jsonl"
    flags = [f"--root={root}", "--report", f"--rows={rows_path}"]
    assert main.run(["sweep", *flags]) == 0
    rows = [json.loads(line) for line in rows_path.read_text().splitlines()]
    assert [row["id"] for row in rows] == [run.id for run in runs]
    assert [row["attempts"] for row in rows] == [1, 1, 2, 1]
    assert str(tmp_path / "root") not in rows_path.read_text()
    losses = [row["metrics"]["loss"] for row in rows]
    # What is fetched ahead changes nothing, and so the run that was killed is also
    # told to have come to what the undisturbed one beside it came to.
    assert losses[0::2] == losses[1::2]
    assert len(set(losses)) == 2
    assert (root / "plots" / "loss_vs_data.flip_prob.png").is_file()
