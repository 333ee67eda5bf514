"""A run cut off and started again is the run that was never stopped."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from glide_jax.config import resolve
from glide_jax.runtime import lifecycle, metric_writers
from glide_jax.train import loop, setup
from tests import fake_devices
from tests.train import small_runs
from tests.train.small_runs import CLIP, TEXT2IM, assert_trees_equal

# Everything random at once. Two timesteps have their ten losses each by the second
# step of 16, so that the history decides what is drawn from then on.
EVERYTHING = {
    "model.dropout_prob": 0.1,
    "diffusion.num_timesteps": 2,
    "sample.respacing": "",
    "data.validation_sources": ("shapes:quickstart",),
    "train.global_batch_size": 16,
    "train.caption_drop_prob": 0.2,
    "train.timestep_sampling": "loss_second_moment",
    "optim.schedule": "cosine",
    "optim.warmup_steps": 1,
    "log.validate_every_steps": 2,
    "log.validation_examples": 16,
}
MEASURED = ("speed/", "memory/")


def final_state(config, workdir):
    """What the newest checkpoint of a run holds."""
    run, state = setup.prepare(config, workdir)
    run.checkpoints.close()
    return state


def rows(workdir: pathlib.Path) -> list[dict]:
    """metrics.jsonl without what a clock and the machine say."""
    return [
        {name: value for name, value in row.items() if not name.startswith(MEASURED)}
        for row in metric_writers.read_metrics(workdir / "metrics.jsonl")
    ]


@pytest.fixture
def stopping_hook():
    """A grid hook that asks its own process to stop."""

    def make(run):
        def draw(params):
            os.kill(os.getpid(), signal.SIGTERM)
            return np.zeros((4, 4, 3), np.uint8)

        return draw

    return make


def test_two_and_two_steps_are_four_steps_bit_for_bit(
    make_config, tmp_path, stopping_hook, caplog
):
    config = make_config(TEXT2IM, EVERYTHING)
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    assert loop.train(config, straight) == lifecycle.ExitCode.OK
    with_grid = resolve.override(config, {"log.grid_every_steps": 2})
    code = loop.train(with_grid, cut, make_grid_hook=stopping_hook)
    assert code == lifecycle.ExitCode.PREEMPTED
    halfway = final_state(with_grid, cut)
    assert int(halfway.step) == 2
    np.testing.assert_array_equal(halfway.resampler.counts, 10)

    assert loop.train(config, cut) == lifecycle.ExitCode.OK
    expected, found = final_state(config, straight), final_state(config, cut)
    assert int(found.step) == 4
    assert_trees_equal(found, expected)
    assert rows(cut) == rows(straight)
    # Validation has rows of its own.
    assert [row["step"] for row in rows(cut)] == [0, 1, 2, 2, 3, 4, 4]
    assert "validation/loss" in rows(cut)[0]

    # Nothing is left to do, and nothing is done.
    before = (cut / "metrics.jsonl").read_text()
    with caplog.at_level("INFO"):
        assert loop.train(config, cut) == lifecycle.ExitCode.OK
    assert "already trained to step 4" in caplog.messages
    assert (cut / "metrics.jsonl").read_text() == before


def test_a_run_with_a_damaged_newest_checkpoint_resumes_from_the_previous_one(
    make_config, tmp_path, caplog
):
    config = make_config(CLIP, {"checkpoint.every_steps": 2})
    assert loop.train(config, tmp_path / "straight") == lifecycle.ExitCode.OK
    cut = shutil.copytree(tmp_path / "straight", tmp_path / "cut")
    for path in (cut / "checkpoints" / "4" / "params" / "d").iterdir():
        content = bytearray(path.read_bytes())
        content[-20] ^= 1
        path.write_bytes(content)
    with caplog.at_level("INFO"):
        assert loop.train(config, cut) == lifecycle.ExitCode.OK
    assert "resumed at step 2" in caplog.messages
    assert [m for m in caplog.messages if "step 4 in" in m and "skipped: params/d" in m]
    expected = final_state(config, tmp_path / "straight")
    found = final_state(config, cut)
    assert int(found.step) == 4
    assert_trees_equal(found, expected)
    assert rows(cut) == rows(tmp_path / "straight")


def test_a_terminated_command_saves_and_the_same_command_resumes(make_config, tmp_path):
    config = make_config(CLIP, {"train.num_steps": 60})
    experiment = small_runs.write_experiment(tmp_path / "experiment.py", config)
    workdir = tmp_path / "cut"

    first = start_training(experiment, workdir)
    wait_for(workdir / "metrics.jsonl", first)
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=60) == lifecycle.ExitCode.PREEMPTED
    stopped_at = int(final_state(config, workdir).step)
    assert 1 <= stopped_at < 60

    assert start_training(experiment, workdir).wait(timeout=120) == 0
    assert loop.train(config, tmp_path / "straight") == lifecycle.ExitCode.OK
    found = final_state(config, workdir)
    assert_trees_equal(found, final_state(config, tmp_path / "straight"))
    assert rows(workdir) == rows(tmp_path / "straight")


def start_training(experiment: pathlib.Path, workdir: pathlib.Path) -> subprocess.Popen:
    """Starts `glide train` in a child process."""
    environment = {**os.environ, "PYTHONPATH": str(fake_devices.ROOT)}
    command = [sys.executable, "-m", "glide_jax.cli.main", "train"]
    return subprocess.Popen(
        [*command, f"--config={experiment}", f"--workdir={workdir}"], env=environment
    )


def wait_for(path: pathlib.Path, process: subprocess.Popen) -> None:
    """Until the first row of metrics: signals are heeded by then."""
    deadline = time.monotonic() + 120
    while not (path.exists() and path.read_text()):
        assert process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_resumes_with_a_cache_of_pictures_as_without(
    make_config, tmp_path, caplog
):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(noise).save(photos / f"{i}.jpg")
        (photos / f"{i}.txt").write_text(f"photo {i}")
    data = {"data.sources": (f"folder:{photos}",)}
    cached = data | {"data.cache_dir": str(tmp_path / "pictures")}
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    loop.train(make_config(changes=data), straight)
    loop.train(make_config(changes=data | {"train.num_steps": 2}), cut)
    with caplog.at_level("INFO"):
        loop.train(make_config(changes=cached), cut)
    assert "MiB of this data (6 pictures of 8 px)" in caplog.text
    assert list((tmp_path / "pictures").rglob("*.rgb"))
    assert_trees_equal(
        final_state(make_config(changes=data), straight),
        final_state(make_config(changes=cached), cut),
    )
