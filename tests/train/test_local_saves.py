"""A run that lost a process goes on from the hosts' own disks with equal bits."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pytest

from glide_jax.checkpoint import lineage
from glide_jax.config import resolve
from glide_jax.runtime import lifecycle
from glide_jax.train import local_saves, loop, setup, train_state
from tests import local_processes
from tests.chaos import equality
from tests.train import small_runs, test_loop
from tests.train.small_runs import CLIP

TRAIN = [sys.executable, "-m", "glide_jax.cli.main", "train"]
RESUMED = r"resumed at step (\d+) from the local tier \(the shared store has (.*)\)"


def test_a_local_step_continues_its_own_run_only(make_config, tmp_path, caplog):
    changes = {
        "checkpoint.local_every_steps": 1,
        "checkpoint.local_dir": str(tmp_path / "disk"),
    }
    config = make_config(CLIP, changes)

    def start(**changes):
        """A start with other settings, after one that was killed at step 2."""
        caplog.clear()
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        run, state = setup.prepare(config, tmp_path / "run")
        state = run.skip_batch(run.skip_batch(state))
        counters = {"passed_over": {"rewinds": 1, "steps": [1, 2]}}
        items = train_state.to_items(state)
        assert run.local.save(2, items, {**run.facts, **counters})
        run.local.wait()
        caplog.clear()
        other = resolve.override(config, changes)
        run, again = setup.prepare(other, tmp_path / "run")
        return run, again, state

    with caplog.at_level("INFO"):
        run, again, state = start(**{"optim.learning_rate": 0.5})
        assert run.past["passed_over"] == {"rewinds": 1, "steps": [1, 2]}
        small_runs.assert_trees_equal(again, state)
        told = "resumed at step 2 from the local tier (the shared store has none)"
        assert told in caplog.messages
        for changes, reason in (
            ({"seed": 1}, "has other settings (seed: 0 -> 1)"),
            ({"train.num_steps": 2}, "is not before train.num_steps=2"),
        ):
            _, again, _ = start(**changes)
            assert int(again.step) == 0
            told = f"the local tier is ignored: its step 2 {reason}"
            assert told in caplog.messages
        # Without the tier the run goes on without it, and its steps are of the past.
        _, again, _ = start(**{"checkpoint.local_every_steps": 0})
        assert int(again.step) == 0
        assert not (tmp_path / "run" / lineage.NAME).exists()


@pytest.mark.slow
def test_a_run_that_went_back_goes_on_from_local_steps_after_that(
    make_config, tmp_path, monkeypatch, caplog
):
    changes = {
        "train.num_steps": 12,
        "train.max_skipped_in_a_row": 3,
        "checkpoint.every_steps": 4,
        "checkpoint.local_dir": str(tmp_path / "disk"),
    }
    straight = make_config(CLIP, changes)
    config = resolve.override(straight, {"checkpoint.local_every_steps": 1})
    on_disk = []

    def poison(step, batch):
        parts = (tmp_path / "disk").rglob("*.part")
        on_disk.append((step, max(map(step_of, parts), default=0)))
        if step == 10 and [made for made, _ in on_disk].count(10) == 1:
            raise RuntimeError("lost")
        value = np.float32(np.nan if step in {6, 7, 8} else 0.0)
        return batch | {"image": batch["image"] + value}

    test_loop.change_batches(monkeypatch, poison)
    with caplog.at_level("INFO"), pytest.raises(RuntimeError, match="lost"):
        loop.train(config, tmp_path / "cut")
    assert "rolling back to step 4" in caplog.text
    (first, newest), (again, older) = [pair for pair in on_disk if pair[0] == 5]
    assert (first, again) == (5, 5)
    assert newest in (3, 4)
    assert older in (0, 3, 4)
    with caplog.at_level("INFO"):
        assert loop.train(config, tmp_path / "cut") == lifecycle.ExitCode.OK
    assert re.search(RESUMED, caplog.text).groups() == ("9", "step 8")
    assert loop.train(straight, tmp_path / "straight") == lifecycle.ExitCode.OK
    monkeypatch.undo()
    equality.check_same(straight, tmp_path / "straight", tmp_path / "cut")


def test_the_default_folder_is_the_same_after_a_restart(make_config, monkeypatch):
    config = make_config(CLIP)
    monkeypatch.chdir("/")
    found = local_saves.folder(config, pathlib.Path("runs/base"))
    assert found == local_saves.folder(config, pathlib.Path("/runs/base"))
    assert found.is_relative_to(tempfile.gettempdir())
    assert found != local_saves.folder(config, pathlib.Path("/other/base"))


@pytest.mark.slow
def test_a_killed_run_loses_the_steps_since_its_newest_local_one(make_config, tmp_path):
    changes = {
        "train.num_steps": 400,
        "train.timestep_sampling": "uniform",
        "log.every_steps": 4,  # a cut between two rows splits their means
        "checkpoint.every_steps": 40,
        "checkpoint.keep": 100,
        "checkpoint.local_every_steps": 3,
        "checkpoint.local_dir": str(tmp_path / "disk"),
    }
    config = make_config(CLIP, changes)
    experiment = small_runs.write_experiment(tmp_path / "experiment.py", config)
    workdir, parts = tmp_path / "cut", (tmp_path / "disk").rglob
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    first = start_training(experiment, workdir, logs[0])
    try:
        # A local step that is newer than one of the store.
        wait_until(lambda: (workdir / "checkpoints" / "40").exists(), first)
        wait_until(lambda: any(step_of(path) > 50 for path in parts("*.part")), first)
    finally:
        first.kill()
        first.wait()
    assert start_training(experiment, workdir, logs[1]).wait(timeout=300) == 0
    ((step, stored),) = re.findall(RESUMED, logs[1].read_text())
    rows = re.findall(r"step (\d+): ", logs[0].read_text())
    # The steps since the last local one, and one that was being written.
    assert 50 < int(step) < 400
    assert int(rows[-1]) - int(step) < 2 * 3 + 4
    assert re.fullmatch(r"step \d+", stored)
    assert not list(parts("*.part")), "the run has ended"

    straight = resolve.override(config, {"checkpoint.local_every_steps": 0})
    assert loop.train(straight, tmp_path / "straight") == lifecycle.ExitCode.OK
    assert not (tmp_path / "straight" / lineage.NAME).exists()
    equality.check_same(straight, tmp_path / "straight", workdir)


def start_training(
    experiment: pathlib.Path, workdir: pathlib.Path, log: pathlib.Path
) -> subprocess.Popen:
    command = [*TRAIN, f"--config={experiment}", f"--workdir={workdir}"]
    with log.open("w") as file:
        return subprocess.Popen(command, env=local_processes.environment(), stderr=file)


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not is_so():
        assert process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def step_of(path: pathlib.Path) -> int:
    return int(path.name.partition(".")[0])


@pytest.mark.slow
def test_a_process_that_lost_its_disk_goes_on_from_its_peers_copy(
    make_config, tmp_path
):
    changes = {
        "train.num_steps": 60,
        "train.global_batch_size": 8,
        "train.timestep_sampling": "uniform",
        "log.every_steps": 4,
        "mesh.fsdp": 2,
        "mesh.min_shard_mb": 0,
        "checkpoint.every_steps": 50,
        "checkpoint.local_every_steps": 3,
    }
    config = make_config(CLIP, changes)
    experiment = small_runs.write_experiment(tmp_path / "experiment.py", config)

    def command(workdir: str) -> list[str]:
        train = " ".join([*TRAIN, f"--config={experiment}", f"--workdir={workdir}"])
        # Two hosts with a disk each.
        disk = f"{tmp_path}/host$GLIDE_JAX_PROCESS_ID"
        return ["bash", "-c", f"mkdir -p {disk}; TMPDIR={disk} exec {train}"]

    cut, logs = tmp_path / "cut", [tmp_path / "logs0", tmp_path / "logs1"]
    launcher = local_processes.start(logs[0], command(cut), devices=1)
    copies = (tmp_path / "host0").rglob
    with local_processes.ended(launcher):
        wait_until(
            lambda: any(step_of(path) >= 12 for path in copies("*.1of2.part")), launcher
        )
        os.kill(local_processes.process_of(launcher.pid, 1), signal.SIGKILL)
        local_processes.finish(launcher, logs[0], expected=137)
    shutil.rmtree(tmp_path / "host1")
    local_processes.run(logs[1], command(cut), devices=1)
    log0, log1 = (path.read_text() for path in sorted(logs[1].iterdir()))
    ((step, none),) = re.findall(RESUMED, log0)
    assert int(step) >= 12
    assert none == "none"
    assert f"local checkpoint step {step} is from process 0" in log1

    local_processes.run(tmp_path / "logs2", command(tmp_path / "straight"), devices=1)
    equality.check_same(config, tmp_path / "straight", cut)
