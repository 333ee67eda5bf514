"""Of two starts of one workdir the second is refused, until the first is gone."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from glide_jax.checkpoint import async_save, folders, store
from glide_jax.cli import main
from glide_jax.errors import UserError
from glide_jax.runtime import holders, lifecycle, locks, metric_writers
from glide_jax.train import loop
from tests import local_processes
from tests.checkpoint import states
from tests.train import small_runs

GLIDE = (sys.executable, "-m", "glide_jax.cli.main")


def record(workdir: pathlib.Path) -> holders.Holder | None:
    return holders.read(workdir / locks.RECORD)


def give_to_another_host(workdir: pathlib.Path) -> None:
    """As if another host had taken the workdir over."""
    path = workdir / locks.RECORD
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"host": "rack7", "token": "another"}))


def test_a_second_start_is_refused_and_one_after_a_kill_resumes(
    make_config, tmp_path, capfd, caplog
):
    config = make_config(small_runs.CLIP, {"checkpoint.every_steps": 1})
    experiment = small_runs.write_experiment(tmp_path / "experiment.py", config)
    run = tmp_path / "run"
    command = ["train", f"--config={experiment}", f"--workdir={run}"]
    with subprocess.Popen(
        [*GLIDE, *command, "--config.train.num_steps=1000000"],
        env=local_processes.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as first:
        try:
            deadline = time.monotonic() + 120
            while not folders.list_whole_steps(run / "checkpoints"):
                assert first.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            first.send_signal(signal.SIGSTOP)  # so that all files stay as they are
            before = {path: path.stat().st_mtime_ns for path in run.rglob("*.json*")}
            code = main.run([*command, "--config.train.grace_secs=1"])
            assert code == lifecycle.ExitCode.USER_ERROR
            line = capfd.readouterr().err.splitlines()[-1]
            assert f"--workdir={run} is being written by process {first.pid} " in line
            after = {path: path.stat().st_mtime_ns for path in run.rglob("*.json*")}
            assert after == before
        finally:
            first.kill()
    last = max(folders.list_whole_steps(run / "checkpoints"))
    more = f"--config.train.num_steps={last + 1}"
    assert main.run([*command, more]) == lifecycle.ExitCode.OK
    assert f"taken over from process {first.pid} " in caplog.text
    assert record(run) is None


def test_a_run_that_was_taken_over_ends_and_writes_nothing_more(
    make_config, tmp_path, monkeypatch
):
    changes = {"train.num_steps": 6, "checkpoint.every_steps": 2}
    write_row = loop.Loop.write_row

    def lose_the_workdir(self):
        if self.step == 4:
            self.run.checkpoints.settle()
            give_to_another_host(tmp_path)
            # It was suspended for so long.
            monkeypatch.setattr(locks, "_now", lambda: time.monotonic() + 1e9)
        write_row(self)

    monkeypatch.setattr(loop.Loop, "write_row", lose_the_workdir)
    with pytest.raises(UserError, match=r"taken over by process .* on rack7") as error:
        loop.train(make_config(small_runs.CLIP, changes), tmp_path)
    assert "\n" not in str(error.value)
    assert folders.list_steps(tmp_path / "checkpoints") == [2]
    rows = metric_writers.read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert record(tmp_path).host == "rack7"


def test_a_checkpoint_is_not_put_in_place_for_a_run_that_was_taken_over(
    tmp_path, monkeypatch
):
    folder = states.write(tmp_path, 1)
    is_lost = []

    def check_writer() -> None:
        if is_lost:
            raise UserError("taken over")

    writer = store.CheckpointStore(folder, check_writer=check_writer)
    start = async_save.AsyncSave.start

    def start_and_lose(self, state):
        told = start(self, state)
        is_lost.append(True)
        return told

    monkeypatch.setattr(async_save.AsyncSave, "start", start_and_lose)
    writer.save(2, states.make_items(2), {"step": 2})
    with pytest.raises(UserError, match=r"step 2 .* was not written: taken over"):
        writer.close()
    assert folders.list_steps(folder) == [1]
    # What another run may write into is left alone.
    assert folders.unfinished(folder, 2).is_dir()
    with pytest.raises(UserError, match="taken over"):
        writer.discard_after(0)
    assert folders.list_steps(folder) == [1]
