"""Steps lost by kills, and waits for checkpoints, with and without local ones."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import platform
import random
import re
import shutil
import signal
import statistics
from collections.abc import Callable
from typing import Any

import jax

from glide_jax.config import resolve
from glide_jax.runtime import lifecycle, metric_writers
from tests.chaos import equality, training, world
from tests.train import small_runs

# Of the shared store, and of the local disks.
EVERY_STEPS, LOCAL_EVERY_STEPS = 50, 5
# Rows of a start before it is killed: a row is a step.
ROWS = (15, 90)
STEPS_FOR_A_KILL = 60
_ROW = re.compile(r"step (\d+): [\d.e+-]+ s, .*images/s/chip")
_RESUMED = re.compile(r"resumed at step (\d+)( from the local tier)?")


@dataclasses.dataclass
class Course:
    """One run and what its kills cost.

    Attributes:
      name: of the run, for the report.
      lost: steps by kill.
      is_from_local: by kill, whether the next start resumed from the local disks.
      is_disk_lost: by kill, whether the local disk of the killed process was emptied.
    """

    name: str
    lost: list[int] = dataclasses.field(default_factory=list)
    is_from_local: list[bool] = dataclasses.field(default_factory=list)
    is_disk_lost: list[bool] = dataclasses.field(default_factory=list)


def run(output: pathlib.Path, seed: int, kills: int, say: Callable[[str], None]) -> int:
    """Makes the runs and writes lost_steps.json and .md; the exit code."""
    world.write_shards(output / "shards")
    num_steps = STEPS_FOR_A_KILL * kills + ROWS[0]
    config = resolve.override(
        world.make_config(output, num_steps),
        {
            "checkpoint.every_steps": EVERY_STEPS,
            "log.every_steps": 1,
            "log.validate_every_steps": 0,
        },
    )
    experiment = output / "experiment.py"
    small_runs.write_experiment(experiment, config)
    undisturbed = Course("undisturbed, without")
    courses = [
        (undisturbed, 0, 0),
        (Course("without"), 0, kills),
        (Course("with"), LOCAL_EVERY_STEPS, kills),
    ]
    rows = []
    for course, local_every, count in courses:
        workdir = output / course.name.replace(", ", "_")
        flags = [f"--config.checkpoint.local_every_steps={local_every}"]
        _make(course, experiment, workdir, flags, count, random.Random(seed), say)
        if course is not undisturbed:
            first = output / undisturbed.name.replace(", ", "_")
            equality.check_same(config, first, workdir)
        rows.append(_describe(course, local_every, workdir))
    found = {
        "seed": seed,
        "kills": kills,
        "steps": num_steps,
        "every_steps": EVERY_STEPS,
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
        "runs": rows,
    }
    (output / "lost_steps.json").write_text(json.dumps(found, indent=1) + "\n")
    (output / "lost_steps.md").write_text(page(found))
    say(page(found))
    return 0


def _make(
    course: Course,
    experiment: pathlib.Path,
    workdir: pathlib.Path,
    flags: list[str],
    kills: int,
    rng: random.Random,
    say: Callable[[str], None],
) -> None:
    """Starts a run again and again until it has been killed so often and ended."""
    disks = workdir.with_name(f"{workdir.name}_disks")
    reached = 0
    for kill in range(kills + 1):
        logs = workdir.with_name(f"{workdir.name}_logs") / f"start{kill}"
        with training.Training(experiment, workdir, logs, *flags, disks=disks) as run:
            if kill < kills:
                # The same moments with and without local checkpoints.
                count = rng.randint(*ROWS)
                run.wait_until(functools.partial(_has_rows, run, count), "rows")
                killed = kill % training.PROCESSES
                run.signal(signal.SIGKILL, killed)
            code = run.wait()
            text = run.text()
        if kill:
            resumed = _RESUMED.search(text)
            course.lost.append(reached - (int(resumed[1]) if resumed else 0))
            course.is_from_local.append(bool(resumed and resumed[2]))
            say(f"{course.name}: kill {kill} lost {course.lost[-1]} of {reached} steps")
        if kill == kills:
            assert code == 0, text[-2000:]
            return
        assert lifecycle.is_retryable(code), text[-2000:]
        reached = int(_ROW.findall(text)[-1])
        course.is_disk_lost.append(kill % 4 > 1)
        if course.is_disk_lost[-1]:
            shutil.rmtree(training.disk_of(disks, killed))


def _has_rows(run: training.Training, count: int) -> bool:
    return len(_ROW.findall(run.text())) >= count


def _describe(
    course: Course, local_every: int, workdir: pathlib.Path
) -> dict[str, Any]:
    rows = [
        row
        for row in metric_writers.read_metrics(workdir / "metrics.jsonl")
        if "loss" in row  # validation losses have rows of their own
    ]
    # The row of a step has the pause after the step before.
    waits = {row["step"] - 1: row["speed/checkpoint_seconds"] for row in rows}
    waits = {step: seconds for step, seconds in waits.items() if seconds}
    shared = [waits[step] for step in waits if step % EVERY_STEPS == 0]
    local = [waits[step] for step in waits if step % EVERY_STEPS]
    return {
        **dataclasses.asdict(course),
        "local_every": local_every,
        "shared_waits_secs": shared,
        "local_waits_secs": local,
        "training_secs": sum(row["speed/training_seconds"] for row in rows),
    }


def page(found: dict[str, Any]) -> str:
    """The report to be read."""
    versions = ", ".join(f"{n} {v}" for n, v in found["versions"].items())
    table = [
        f"| {one['name']} | {one['local_every'] or '-'} | {len(one['lost'])} | "
        f"{sum(one['lost'])} | {max(one['lost'], default=0)} | "
        f"{_waits(one['shared_waits_secs'])} | {_waits(one['local_waits_secs'])} | "
        f"{one['training_secs']:.1f} |"
        for one in found["runs"]
    ]
    disks = sum(found["runs"][-1]["is_disk_lost"])
    local = sum(found["runs"][-1]["is_from_local"])
    return "\n".join(
        [
            "# Steps lost with and without local checkpoints",
            "",
            f"`launch/chaos.sh --kills={found['kills']} --seed={found['seed']}`: "
            f"{found['steps']} steps on 2 processes, one of which is killed by SIGKILL "
            f"{found['kills']} times; the shared store has a checkpoint every "
            f"{found['every_steps']} steps. The local disk of the killed process was "
            f"emptied as well after {disks} of the kills; after {local} kills the run "
            "with local checkpoints resumed from them. All three runs ended equal, bit "
            f"for bit. {found['machine']}; {versions}.",
            "",
            "| local checkpoints | every | kills | steps lost | most at once | waits "
            "for the store | waits for local ones | steps, s |",
            "|---|---|---|---|---|---|---|---|",
            *table,
            "",
            "Waits are sums of `speed/checkpoint_seconds`, with the number of saves "
            "and the median. They and the seconds of the steps are those of the final "
            "rows, each step once: a save before a kill is not counted if the step "
            "after it was made again. The first save to the store in a process "
            "compiles the digests of the arrays. A local save in the step of one to "
            "the store is counted with it.",
            "",
        ]
    )


def _waits(seconds: list[float]) -> str:
    if not seconds:
        return "-"
    median = 1000 * statistics.median(seconds)
    return f"{sum(seconds):.2f} s in {len(seconds)}, {median:.0f} ms"
