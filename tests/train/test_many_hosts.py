"""Several processes train as one: launch/local.sh runs them as hosts would be run."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from glide_jax.checkpoint import store
from glide_jax.runtime import lifecycle, metric_writers
from tests import local_processes
from tests.chaos import world
from tests.train import small_runs
from tests.train.small_runs import CLIP, TEXT2IM

TRAIN = [sys.executable, "-m", "glide_jax.cli.main", "train"]
RUN = {
    "train.num_steps": 4,
    "train.global_batch_size": 8,
    "data.tokenizer": "sentencepiece:300",
    "checkpoint.every_steps": 2,
    "checkpoint.keep": 10,
    "mesh.fsdp": 4,
    "mesh.min_shard_mb": 0,
}
PICTURES = {
    "train.caption_drop_prob": 0.2,
    "train.num_steps": 2,
    "data.validation_sources": ("shapes:quickstart",),
    "log.validation_examples": 8,
    "log.grid_images": 3,
    "sample.respacing": "2",
}


def records(logs: pathlib.Path, steps: range) -> list[list[int]]:
    """The records that all processes together took at each step, in order of rows."""
    pattern = re.compile(r"step (\d+), rows from (\d+): records \[(.*)\]")
    found: dict[int, dict[int, list[int]]] = {}
    for path in logs.glob("process*.log"):
        for step, row, indices in pattern.findall(path.read_text()):
            found.setdefault(int(step), {})[int(row)] = [
                int(index) for index in indices.split(",")
            ]
    return [
        [index for row in sorted(found[step]) for index in found[step][row]]
        for step in steps
    ]


@pytest.fixture(scope="module")
def whole_run(tokenizer_folder, tmp_path_factory):
    """(experiment, workdir, logs) of 4 steps on 2 processes of 4 devices."""
    folder = tmp_path_factory.mktemp("two_by_four")
    config = small_runs.make_config(tokenizer_folder, CLIP, RUN)
    experiment = small_runs.write_experiment(folder / "experiment.py", config)
    workdir, logs = folder / "run", folder / "logs"
    command = [*TRAIN, f"--config={experiment}", f"--workdir={workdir}"]
    local_processes.run(logs, command)
    return experiment, workdir, logs


def test_two_processes_leave_the_files_of_one(whole_run):
    _, workdir, logs = whole_run
    rows = metric_writers.read_metrics(workdir / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    names = {path.name for path in workdir.iterdir()}
    expected = {"config.json", "tokenizer", "checkpoints", "tensorboard"}
    assert names == {*expected, "metrics.jsonl", "manifest.json"}
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    assert "small: 4/4" in (logs / "process0.log").read_text()
    assert "small: " not in (logs / "process1.log").read_text()


@pytest.mark.slow
def test_two_processes_validate_and_draw_as_one(tokenizer_folder, tmp_path):
    config = small_runs.make_config(tokenizer_folder, TEXT2IM, RUN | PICTURES)
    experiment = small_runs.write_experiment(tmp_path / "experiment.py", config)
    found = []
    for processes, devices in ((2, 4), (1, 1)):
        workdir, logs = tmp_path / f"run{processes}", tmp_path / f"logs{processes}"
        command = [*TRAIN, f"--config={experiment}", f"--workdir={workdir}"]
        command.append(f"--config.mesh.fsdp={devices}")
        local_processes.run(logs, command, processes=processes, devices=devices)
        losses = {
            (row["step"], name): row[name]
            for row in metric_writers.read_metrics(workdir / "metrics.jsonl")
            for name in ("loss", "validation/loss")
            if name in row
        }
        with Image.open(workdir / "grids" / "00000002.png") as picture:
            found.append((losses, np.asarray(picture, np.int32)))
    (losses, picture), (expected_losses, expected_picture) = found
    assert {(1, "loss"), (0, "validation/loss"), (2, "validation/loss")} <= {*losses}
    assert losses.keys() == expected_losses.keys()
    for key, expected in expected_losses.items():
        # Sums in another order: float32, two steps.
        np.testing.assert_allclose(losses[key], expected, rtol=1e-5, err_msg=str(key))
    # A value near the middle of two levels may be rounded to either.
    assert np.abs(picture - expected_picture).max() <= 1


# Sums in another order: float32, two steps.
LAYOUTS = [
    pytest.param(1, 1, ["--config.mesh.fsdp=1"], id="1x1"),
    pytest.param(1, 8, ["--config.mesh.fsdp=2"], id="1x8", marks=pytest.mark.slow),
    pytest.param(4, 2, ["--config.mesh.fsdp=8"], id="4x2", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("processes", "devices", "flags"), LAYOUTS)
def test_a_checkpoint_of_two_by_four_resumes_equally_on_any_layout(
    whole_run, tmp_path, processes, devices, flags
):
    experiment, saved, saved_logs = whole_run
    workdir, logs = tmp_path / "run", tmp_path / "logs"
    shutil.copytree(saved, workdir)
    shutil.rmtree(workdir / "checkpoints" / "4")
    command = [*TRAIN, f"--config={experiment}", f"--workdir={workdir}", *flags]
    local_processes.run(logs, command, processes=processes, devices=devices)

    expected = metric_writers.read_metrics(saved / "metrics.jsonl")
    found = metric_writers.read_metrics(workdir / "metrics.jsonl")
    assert [row["step"] for row in found] == [1, 2, 3, 4]
    for name in ("loss", "grad_norm"):
        losses, before = ([row[name] for row in rows[2:]] for rows in (found, expected))
        np.testing.assert_allclose(losses, before, rtol=1e-5)
        assert losses != [row[name] for row in found[:2]], "nothing was learnt"
    # Numbered from 0, so steps 2 and 3 were left to do.
    steps = range(2, 4)
    assert records(logs, steps) == records(saved_logs, steps)
    assert all(len(set(step)) == 8 for step in records(logs, steps))


@pytest.mark.slow
def test_a_signal_to_one_process_saves_one_step_of_all(whole_run, tmp_path):
    experiment, saved, _ = whole_run
    workdir, logs = tmp_path / "run", tmp_path / "logs"
    shutil.copytree(saved, workdir)
    command = [*TRAIN, f"--config={experiment}", f"--workdir={workdir}"]
    launcher = local_processes.start(
        logs,
        [
            *command,
            "--config.train.num_steps=1000",
            "--config.checkpoint.every_steps=1000",
        ],
    )
    wait_for_row(5, workdir, launcher, logs)
    os.kill(local_processes.process_of(launcher.pid, 1), signal.SIGTERM)
    local_processes.finish(launcher, logs, expected=42)

    with store.CheckpointStore(workdir / "checkpoints") as stored:
        stopped_at = stored.latest_step()
    assert 5 <= stopped_at < 1000
    for process in (0, 1):
        log = (logs / f"process{process}.log").read_text()
        assert f"stopped by a signal; step {stopped_at} is saved" in log
    rows = metric_writers.read_metrics(workdir / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, stopped_at + 1))


@pytest.mark.slow
def test_a_signal_while_one_process_waits_for_its_data_saves_one_step_of_all(
    make_config, tmp_path
):
    # The rows of process 1 lie on a disk of its own, which goes away.
    for process in (0, 1):
        world.write_shards(tmp_path / f"host{process}" / "shards")
    changes = {
        "data.sources": ("webdataset:shards/*.tar",),
        "data.max_bad_frac": 1.0,
        "data.prefetch_batches": 1,
        "train.num_steps": 100_000,
        "checkpoint.every_steps": 100_000,
        "train.grace_secs": 90.0,
    }
    config = make_config(CLIP, changes)
    experiment = small_runs.write_experiment(tmp_path / "experiment.py", config)
    workdir, logs = tmp_path / "run", tmp_path / "logs"
    train = " ".join([*TRAIN, f"--config={experiment}", f"--workdir={workdir}"])
    command = f"cd {tmp_path}/host$GLIDE_JAX_PROCESS_ID && exec {train}"
    launcher = local_processes.start(logs, ["bash", "-c", command], devices=1)
    with local_processes.ended(launcher):
        wait_for_row(3, workdir, launcher, logs)
        shards = sorted((tmp_path / "host1" / "shards").iterdir())
        for shard in shards[1:]:
            shard.unlink()
        time.sleep(2)
        os.kill(local_processes.process_of(launcher.pid, 0), signal.SIGTERM)
        local_processes.finish(launcher, logs, expected=42)
    with store.CheckpointStore(workdir / "checkpoints") as stored:
        (stopped_at,) = stored.steps()
    for process in (0, 1):
        log = (logs / f"process{process}.log").read_text()
        assert f"stopped by a signal; step {stopped_at} is saved" in log


@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_is_gone_ends_the_other_within_two_minutes(
    make_config, tmp_path, killed
):
    config = make_config(CLIP, {"train.num_steps": 100_000})
    experiment = small_runs.write_experiment(tmp_path / "experiment.py", config)
    workdir, logs = tmp_path / "run", tmp_path / "logs"
    # The shell outlives its process, to say how that ended, and waits for the other
    # one, so that local.sh ends neither.
    train = " ".join([*TRAIN, f"--config={experiment}", f"--workdir={workdir}"])
    command = f"{train}; echo $? > {tmp_path}/code$GLIDE_JAX_PROCESS_ID; sleep 150"
    launcher = local_processes.start(logs, ["bash", "-c", command], devices=1)
    with local_processes.ended(launcher):
        wait_for_row(1, workdir, launcher, logs)
        shell = local_processes.process_of(launcher.pid, killed, b"bash\0-c")
        os.kill(local_processes.process_of(shell, killed), signal.SIGKILL)
        begin = time.monotonic()
        path = tmp_path / f"code{1 - killed}"
        while not (path.exists() and path.read_text()):
            assert time.monotonic() - begin < 120, local_processes.logs_of(logs)
            time.sleep(0.1)
    assert int(path.read_text()) == lifecycle.ExitCode.PEER_LOST


def wait_for_row(step, workdir, launcher, logs) -> None:
    """Until the run has made this step."""
    path = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not path.exists() or f'{{"step": {step},' not in path.read_text():
        assert launcher.poll() is None, local_processes.logs_of(logs)
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_other_settings_in_one_process_end_all_in_one_line(make_config, tmp_path):
    experiment = small_runs.write_experiment(tmp_path / "e.py", make_config(CLIP))
    workdir, logs = tmp_path / "run", tmp_path / "logs"
    train = " ".join([*TRAIN, f"--config={experiment}", f"--workdir={workdir}"])
    command = f"exec {train} --config.seed=$GLIDE_JAX_PROCESS_ID"
    local_processes.run(logs, ["bash", "-c", command], devices=1, expected=2)
    message = r"process 1 \(.*\) has other settings than process 0 \(.*\): seed: 0 -> 1"
    for process in (0, 1):
        log = (logs / f"process{process}.log").read_text()
        assert len(re.findall(message, log)) == 1, log
        assert "Traceback" not in log
    assert not workdir.exists()


def test_a_mistake_on_one_host_ends_all_with_its_line(make_config, tmp_path):
    # The first host has the pictures, the second has not.
    changes = {"data.sources": ("folder:pictures",)}
    config = make_config(CLIP, changes)
    experiment = small_runs.write_experiment(tmp_path / "experiment.py", config)
    logs = tmp_path / "logs"
    (tmp_path / "host1").mkdir()
    pictures = tmp_path / "host0" / "pictures"
    pictures.mkdir(parents=True)
    for i in range(8):
        Image.new("RGB", (8, 8), (30 * i, 0, 0)).save(pictures / f"{i}.png")
        (pictures / f"{i}.txt").write_text("a square")
    train = " ".join([*TRAIN, f"--config={experiment}", f"--workdir={tmp_path}/run"])
    command = f"cd {tmp_path}/host$GLIDE_JAX_PROCESS_ID && exec {train}"
    local_processes.run(logs, ["bash", "-c", command], devices=1, expected=2)
    log = (logs / "process0.log").read_text()
    assert re.search(r"stopped: process 1 \(.*\): .*pictures", log), log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("present", "missing"), [(0, r"process 1 \(b\)"), (1, r"process 0 \(a\)")]
)
def test_a_host_that_does_not_come_is_named(make_config, tmp_path, present, missing):
    experiment = small_runs.write_experiment(tmp_path / "e.py", make_config(CLIP))
    workdir = tmp_path / "run"
    begin = time.monotonic()
    result = subprocess.run(
        [*TRAIN, f"--config={experiment}", f"--workdir={workdir}"],
        env=local_processes.environment(
            JAX_PLATFORMS="cpu",
            GLIDE_JAX_COORDINATOR=f"127.0.0.1:{free_port()}",
            GLIDE_JAX_NUM_PROCESSES="2",
            GLIDE_JAX_PROCESS_ID=str(present),
            GLIDE_JAX_HOSTS="a,b",
            GLIDE_JAX_START_TIMEOUT_SECS="3",
        ),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == lifecycle.ExitCode.PEER_LOST, result.stderr
    (line,) = result.stderr.splitlines()
    assert re.search(f"{missing} .* within 3 s", line)
    assert time.monotonic() - begin < 60
    assert not workdir.exists()


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
