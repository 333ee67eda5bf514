"""Each phase, cut off by signals at random points, is the run that never was, exactly.

The command `glide train` runs in processes of its own and gets real signals: SIGTERM,
which it saves after, and SIGKILL, in the midst of a step, of a start or of a save.
"""

from __future__ import annotations

import dataclasses
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from glide_jax.config import resolve
from glide_jax.data import sources
from glide_jax.hooks import sample_grids
from glide_jax.runtime import lifecycle, metric_writers
from glide_jax.train import loop, setup
from tests import local_processes
from tests.chaos import equality
from tests.train import small_runs
from tests.train.small_runs import CLIP, TEXT2IM

# Cuts come after a few rows of a start each, so that the last leaves half of the steps.
STEPS, ROWS_EVERY, SAVES_EVERY = 60, 5, 4
DEFAULT_CUTS, SLOW_CUTS = 3, 4
KINDS = ("SIGTERM", "SIGKILL", "SIGKILL in a save", "SIGTERM in a start")
UPSAMPLER = dataclasses.replace(TEXT2IM, low_res_px=4)
COMMON = {
    "train.num_steps": STEPS,
    "log.every_steps": ROWS_EVERY,  # a cut between two rows splits their means
    "ema.decays": (0.9, 0.5),
}
FOLDER, ORIGIN = "(folder)", "(origin)"  # replaced by paths
LOOKS = {
    "data.validation_sources": ("shapes:quickstart",),
    "log.validate_every_steps": 6,
    "log.validation_examples": 8,
    "log.grid_every_steps": 9,
    "log.grid_images": 2,
}
# A history of losses that decides which of two timesteps are drawn, on pictures some of
# which are broken.
BASE = {
    "model.dropout_prob": 0.1,
    "diffusion.num_timesteps": 2,
    "sample.respacing": "",
    "train.timestep_sampling": "loss_second_moment",
    "data.max_bad_frac": 0.5,
    **LOOKS,
}
FINE_TUNE = {"train.init_from": ORIGIN, "train.caption_drop_prob": 0.2}
# A loss scale that is too high to begin with, so that updates are skipped.
FLOAT16 = {"model.compute_dtype": "float16", "train.init_log2_loss_scale": 30.0}
PHASES = {
    "base": (TEXT2IM, BASE | {"data.sources": FOLDER}),
    "cfg": (TEXT2IM, FINE_TUNE),
    "upsampler": (UPSAMPLER, FLOAT16),
    "inpaint": (
        dataclasses.replace(TEXT2IM, inpaint=True),
        FINE_TUNE | {"optim.weight_decay": 0.1},
    ),
    "upsampler_inpaint": (
        dataclasses.replace(UPSAMPLER, inpaint=True),
        {"train.init_from": ORIGIN, "ema.every_steps": 2, "optim.warmup_steps": 40},
    ),
    # Losses above their recent average are often taken for spikes.
    "clip": (CLIP, {"optim.schedule": "cosine", "train.skip_loss_above": 1.05}),
}


@pytest.mark.parametrize(
    ("phase", "cuts"),
    [
        pytest.param("clip", DEFAULT_CUTS, id="clip"),
        *[
            pytest.param(phase, SLOW_CUTS, id=f"{phase}-all", marks=pytest.mark.slow)
            for phase in PHASES
            if phase != "clip"
        ],
    ],
)
def test_a_run_cut_off_at_random_points_is_the_straight_run(
    make_config, tmp_path, phase, cuts
):
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # for whoever has to see this fail again
    rng = random.Random(seed)
    model, changes = PHASES[phase]
    config = make_config(
        model, COMMON | prepared(changes, model, make_config, tmp_path)
    )
    saving = resolve.override(config, {"checkpoint.every_steps": SAVES_EVERY})
    experiment = small_runs.write_experiment(tmp_path / "experiment.py", saving)
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    done = loop.train(config, straight, make_grid_hook=sample_grids.make)
    assert done == lifecycle.ExitCode.OK

    kinds = rng.sample(KINDS, k=cuts)
    for start, kind in enumerate(kinds):
        code = cut_off(experiment, cut, kind, tmp_path / f"{start}.log", rng)
        print(f"{kind}: exit code {code}")
        assert lifecycle.is_retryable(code), (tmp_path / f"{start}.log").read_text()
    last = start_training(experiment, cut, tmp_path / "last.log")
    assert last.wait(timeout=300) == 0, (tmp_path / "last.log").read_text()

    equality.check_same(config, straight, cut)
    check_proves_something(phase, cut)


def check_proves_something(phase: str, workdir: pathlib.Path) -> None:
    """The phases that are there for its sake have left what is compared."""
    steps = [
        row["step"] for row in metric_writers.read_metrics(workdir / "metrics.jsonl")
    ]
    assert {1, *range(ROWS_EVERY, STEPS + 1, ROWS_EVERY)} <= {*steps}
    if phase == "base":
        assert len((workdir / "bad_records.jsonl").read_text().splitlines()) == 3
        assert len(list((workdir / "grids").iterdir())) == len(range(9, STEPS, 9)) + 1
    if phase in ("upsampler", "clip"):
        assert (workdir / "skipped.jsonl").read_text()


def prepared(changes, model, make_config, folder: pathlib.Path) -> dict:
    """The changes, with the files that they name."""
    changes = dict(changes)
    if changes.get("data.sources") == FOLDER:
        changes["data.sources"] = (f"folder:{write_pictures(folder / 'pictures')}",)
    if changes.get("train.init_from") == ORIGIN:
        origin = make_config(dataclasses.replace(model, inpaint=False))
        run, state = setup.prepare(origin, folder / "origin")
        run.save(state, 1, {})
        run.checkpoints.close()
        changes["train.init_from"] = str(folder / "origin")
    return changes


def write_pictures(folder: pathlib.Path) -> pathlib.Path:
    """Two dozen captioned pictures, three of them broken."""
    world = sources.open_source("shapes:quickstart")
    folder.mkdir()
    for i in range(24):
        example = world[i]
        path = folder / f"{i:02d}.png"
        if isinstance(example.image, bytes):
            path.write_bytes(example.image)
        else:
            Image.fromarray(example.image).save(path)
        path.with_suffix(".txt").write_text(example.caption)
    for i in (3, 11, 20):
        content = (folder / f"{i:02d}.png").read_bytes()
        (folder / f"{i:02d}.png").write_bytes(content[: len(content) // 2])
    return folder


def cut_off(
    experiment: pathlib.Path,
    workdir: pathlib.Path,
    kind: str,
    log: pathlib.Path,
    rng: random.Random,
) -> int:
    """The exit code, as a shell gives it, of a start that was sent a signal."""
    process = start_training(experiment, workdir, log)
    try:
        if kind == "SIGTERM in a start":
            time.sleep(rng.uniform(0, 3))
        else:
            wait_for_rows(process, log, rng.randint(1, 2))
            time.sleep(rng.uniform(0, 0.05))
        if kind == "SIGKILL in a save":
            stop_in_a_save(process, workdir)
        name = kind.partition(" ")[0]
        process.send_signal(signal.Signals[name])
        code = process.wait(timeout=300)
    finally:
        process.kill()
        process.wait()
    return code if code >= 0 else 128 - code


def start_training(
    experiment: pathlib.Path, workdir: pathlib.Path, log: pathlib.Path
) -> subprocess.Popen:
    """`glide train` in a process of its own, with this one's compiled programs."""
    command = [sys.executable, "-m", "glide_jax.cli.main", "train"]
    command += [f"--config={experiment}", f"--workdir={workdir}"]
    with log.open("w") as file:
        return subprocess.Popen(
            command, env=local_processes.environment(), stdout=file, stderr=file
        )


def wait_for_rows(process: subprocess.Popen, log: pathlib.Path, count: int) -> None:
    """Until this start has written so many rows of metrics."""
    deadline = time.monotonic() + 300
    while log.read_text().count(" images/s/chip, ") < count:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.005)


def stop_in_a_save(process: subprocess.Popen, workdir: pathlib.Path) -> None:
    """Holds the process still at a moment when a checkpoint is half written."""
    deadline = time.monotonic() + 300
    while True:
        assert process.poll() is None, "the run ended before it could be cut off"
        assert time.monotonic() < deadline
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.001)  # until all of its threads stand still
        if any((workdir / "checkpoints").glob("*.unfinished")):
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.002)
