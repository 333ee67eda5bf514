"""The runners of a sweep: where its runs are started, and how.

`RUNNERS` is the only list of runners: the flags, their help and their checks read it.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from glide_jax.errors import UserError
from glide_jax.runtime import lifecycle
from glide_jax.sweep import local, run_list, submit


@dataclasses.dataclass(frozen=True)
class Start:
    """Runs to start.

    Attributes:
      plan: The sweep.
      runs: The runs that are left.
      root: The sweep's folder.
      words: The words after `glide` that start one run, except its --only.
      parallel: Runs at a time.
      restarts: Maximum restarts of a run.
      options: The runner's options.
      dry_run: Whether to show what would be started, rather than to start it.
      show: Shows a line to the user.
    """

    plan: run_list.Plan
    runs: Sequence[run_list.SweepRun]
    root: pathlib.Path
    words: Sequence[str]
    parallel: int
    restarts: int
    options: Any
    dry_run: bool
    show: Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The options of a runner without any."""


@dataclasses.dataclass(frozen=True)
class Runner:
    """One runner.

    Attributes:
      meaning: One phrase for the help.
      start: Starts or submits the runs, and returns the exit code.
      options: A dataclass whose fields are flags, with "meaning" in their metadata.
      sees_files: Whether runs read the files of this machine, which can be checked.
      writes_plan: Whether plan.json is written before the start, on this machine.
    """

    meaning: str
    start: Callable[[Start], int]
    options: type = NoOptions
    sees_files: bool = True
    writes_plan: bool = True


def _start_local(start: Start) -> int:
    if start.dry_run:
        for run in start.runs:
            words = run_list.arguments(start.plan, run, start.root)
            start.show(shlex.join(["glide", *words]))
        return lifecycle.ExitCode.OK
    with lifecycle.StopRequest() as stop:
        code = local.run(
            start.runs, start.root, start.words, stop, parallel=start.parallel
        )
    start.show(f"table: glide sweep --root={start.root} --report")
    return code


def _print_commands(start: Start) -> int:
    verb, *rest = start.words
    for run in start.runs:
        start.show(shlex.join(["glide", verb, f"--only={run.id}", *rest]))
    return lifecycle.ExitCode.OK


def _start_slurm(start: Start) -> int:
    if not start.runs:
        return lifecycle.ExitCode.OK
    script = submit.slurm_script(_job(start), start.options)
    return _hand_over(
        start, ["sbatch"], script, "run this on a login node of the cluster"
    )


def _start_jobset(start: Start) -> int:
    if not start.runs:
        return lifecycle.ExitCode.OK
    namespace = start.options.namespace
    own = [f"--namespace={namespace}"] if namespace else []
    manifest = submit.jobset_manifest(_job(start), start.options)
    return _hand_over(
        start, ["kubectl", "apply", *own, "-f", "-"], manifest, "install it"
    )


RUNNERS: dict[str, Runner] = {
    "local": Runner("processes of this machine", _start_local),
    "slurm": Runner("one array job", _start_slurm, submit.SlurmOptions),
    "jobset": Runner(
        "one indexed JobSet by kubectl",
        _start_jobset,
        submit.JobsetOptions,
        sees_files=False,
        writes_plan=False,
    ),
    "print": Runner(
        "one command on a line, to be run anywhere", _print_commands, sees_files=False
    ),
}


def options() -> dict[str, tuple[dataclasses.Field, list[str]]]:
    """Returns each option by its flag: its field, and the runners that read it."""
    found: dict[str, tuple[dataclasses.Field, list[str]]] = {}
    for name, runner in RUNNERS.items():
        for field in dataclasses.fields(runner.options):
            found.setdefault(field.name, (field, []))[1].append(name)
    return found


def _job(start: Start) -> submit.Job:
    from glide_jax.parallel import compiler  # imports JAX

    chip = start.options.chip
    if chip not in compiler.CHIPS:
        raise UserError(
            f"--chip={chip} is not known; use one of {', '.join(compiler.CHIPS)}"
        )
    return submit.Job(
        name=start.plan.name,
        ids=[run.id for run in start.runs],
        words=start.words,
        root=str(start.root),
        parallel=start.parallel,
        restarts=start.restarts,
        chip=chip,
    )


def _hand_over(start: Start, command: list[str], text: str, remedy: str) -> int:
    if start.dry_run:
        start.show(f"--- {' '.join(command)}, with this on its standard input")
        start.show(text.removesuffix("\n"))
    else:
        submit.hand_over(command, text, remedy)
    return lifecycle.ExitCode.OK
