"""Runs a sweep, here or on a cluster, and reports its results.

    glide sweep experiments/sweeps/lr_batch.py --root=runs/lr_batch --parallel=2
    glide sweep experiments/sweeps/caption_drop.py --root=runs/drop --runner=slurm \\
        --gpus=1 --chip=h100 --parallel=8
    glide sweep --root=runs/lr_batch --status
    glide sweep --root=runs/lr_batch --report

Flags after a -- go to every run. A second start skips finished runs and continues the
others. A sweep file names the command of its runs as COMMAND, and returns their
overrides from sweep(); experiments/sweeps holds examples. If data or a bundle of a run
is missing, no run is started; see --check_inputs. A finished run whose bundles or
configuration have changed since is refused, since its command has another meaning now.

A run takes one machine, or several: --only=ID, started on every host as `glide train`
is, runs that run on all of them. With --runner=slurm, --nodes=N does so.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import logging
import math
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from glide_jax.cli import define
from glide_jax.errors import UserError
from glide_jax.runtime import lifecycle, mirrors, paths

if TYPE_CHECKING:
    from glide_jax.sweep import run_list


def define_flags(values: flags.FlagValues) -> None:
    """Defines flags for starting, showing and reporting, and those of the runners."""
    from glide_jax.sweep import runners

    add = define.Define(values)
    meaning = "folder of the sweep, on a disk with file locks, e.g. runs/lr_batch"
    add.path("root", meaning)
    meaning = "; ".join(f"{name}: {r.meaning}" for name, r in runners.RUNNERS.items())
    add.text("runner", meaning, "local")
    add.whole(
        "parallel",
        "runs at a time, e.g. 2; on a machine with several GPUs set "
        "CUDA_VISIBLE_DEVICES=0,1,..., which is shared out among them: where it is not "
        "set, every run takes every GPU",
        1,
    )
    meaning = "maximum restarts of a run after a retryable exit code"
    add.whole("restarts", meaning, 100, least=0)
    add.switch("retry_failed", "also start runs again that failed", False)
    add.text("only", "run only the run with this id, as all runners do")
    unseen = [name for name, r in runners.RUNNERS.items() if not r.sees_files]
    add.switch(
        "check_inputs",
        "before the first start, check that the data, bundles and files of all runs "
        "exist; --nocheck_inputs if they are on another machine, as they are taken to "
        f"be with --runner={' and '.join(unseen)}",
        True,
    )
    add.switch("dry_run", "print what would be run, and end", False)
    add.switch("status", "show a table of the runs, and end", False)
    add.number("watch", "with --status: repeat it every so many seconds, e.g. 5")
    add.switch("report", "write results.csv, results.md and plots of them", False)
    add.switch(
        "all_plots",
        "with --report: also plot metrics by quarter of the noise, and training "
        "metrics other than the losses",
        False,
    )
    add.path(
        "rows",
        "with --report: also write a JSON row for each finished run to this file, e.g. "
        "experiments/results/sweeps/lr_batch.jsonl",
    )
    for name, (field, readers) in runners.options().items():
        meaning = f"{', '.join(readers)}: {field.metadata['meaning']}"
        if field.type == "int | None":
            add.whole(name, meaning, least=1)
        elif field.type == "str":
            add.text(name, meaning)
        else:
            add.texts(name, meaning)
    add.renamed("cpus_per_task", "cpus")


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Shows the status, writes the report, runs one run, or starts all."""
    from glide_jax.sweep import checks, run_list, run_supervisor, runners, start

    _check_flags(values)
    root = paths.local_path(values.root, "--root")
    if values.status or values.report:
        if arguments:
            raise UserError(
                f"--status and --report read {root}/plan.json; leave out {arguments[0]}"
            )
        shown = run_list.read(root)
        show = _report if values.report else _show
        return show(values, shown, root)
    if values.only:
        plan = start.plan_of_run(values.only, root, arguments)
        work, kind = run_supervisor.run, {}
        if process_id := _process_id():
            work, kind = run_supervisor.assist, {"process_id": process_id}
        with lifecycle.StopRequest() as stop:
            return work(
                plan,
                plan.run(values.only),
                root,
                stop,
                restarts=values.restarts,
                **kind,
            )
    _check_runner(values.runner, root)
    plan = start.make_plan(arguments)
    verb = _verb(plan)
    runner = runners.RUNNERS[values.runner]
    checks_inputs = values.check_inputs and runner.sees_files
    if not checks_inputs:
        flag = "nocheck_inputs" if runner.sees_files else f"runner={values.runner}"
        logging.info("the inputs of the runs are not checked (--%s)", flag)
    parse = functools.partial(_parse, verb)
    checks.check_runs(plan, root, verb, parse, checks_inputs=checks_inputs)
    return start.start(
        plan,
        root,
        arguments,
        runner=values.runner,
        options=_options(values, runner.options),
        parallel=values.parallel,
        restarts=values.restarts,
        retry_failed=values.retry_failed,
        dry_run=values.dry_run,
        show=print,
    )


def _check_runner(name: str, root: pathlib.Path) -> None:
    """Raises UserError for a runner that cannot start runs from here, or in `root`."""
    if name == "local" and _process_id() is not None:
        raise UserError(
            "--runner=local starts runs on one machine, and this is one of several"
            " processes; start each run on all of them by --only=ID, as --runner=print"
            " shows it"
        )
    if name != "local" and mirrors.is_in_store(root):
        raise UserError(
            f"--root={root} mirrors an object store, where one process writes at a"
            f" time, and --runner={name} starts the runs apart; give a folder "
            "of a disk that all share, or use --runner=local"
        )


def _process_id() -> int | None:
    """Returns the index of this process; None if it is alone."""
    from glide_jax.parallel import cluster_env

    cluster = cluster_env.find(os.environ)
    if cluster is not None and cluster.coordinator is None:
        raise UserError(
            "GLIDE_JAX_COORDINATOR=auto does not tell a sweep which process this is;"
            " set host:port, GLIDE_JAX_NUM_PROCESSES and GLIDE_JAX_PROCESS_ID"
        )
    return None if cluster is None else cluster.process_id


def _check_flags(values: flags.FlagValues) -> None:
    from glide_jax.sweep import runners

    known = runners.RUNNERS
    if not values.root:
        raise UserError("--root is missing, e.g. --root=runs/lr_batch")
    if values.runner not in known:
        raise UserError(
            f"--runner={values.runner} is not known; use one of {', '.join(known)}"
        )
    if values.parallel < 1:
        raise UserError(f"--parallel={values.parallel} is below 1; use 1 or more")
    for name, (_, readers) in runners.options().items():
        if values[name].value is not None and values.runner not in readers:
            raise UserError(
                f"--{name} is read only by --runner={' and '.join(readers)}; leave it "
                "out"
            )
    if values.all_plots and not values.report:
        raise UserError("--all_plots is read only with --report; add it")
    if values.rows and not values.report:
        raise UserError("--rows is read only with --report; add it")
    if values.watch is not None and not (values.status and 0 < values.watch < math.inf):
        raise UserError(
            f"--watch={values.watch:g} needs --status and a positive number of "
            "seconds; use e.g. --status --watch=5"
        )


def _options(values: flags.FlagValues, kind: type) -> Any:
    """Returns the options of a runner from its flags; absent flags keep defaults."""
    given = {f.name: values[f.name].value for f in dataclasses.fields(kind)}
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if value is not None
    }
    return kind(**given)


def _verb(plan: run_list.Plan) -> str:
    """Returns the verb that a sweep's COMMAND starts with, of one word or two."""
    from glide_jax.cli import main

    first = " ".join(plan.command[:2])
    verb = first if first in main.VERBS else plan.command[0]
    if verb not in main.VERBS or verb == "sweep":
        raise UserError(
            f"COMMAND of {plan.name} starts with {verb!r}, which cannot be swept; use "
            f"one of {', '.join(v for v in main.VERBS if v != 'sweep')}"
        )
    return verb


def _parse(verb: str, words: Sequence[str]) -> dict[str, Any]:
    """Returns the values of all flags of a verb."""
    from glide_jax.cli import main

    module = importlib.import_module(f"glide_jax.cli.{verb.replace(' ', '_')}")
    values = flags.FlagValues()
    module.define_flags(values)
    main.parse(values, [f"glide {verb}", *words])
    return values.flag_values_dict()


def _show(values: flags.FlagValues, plan: run_list.Plan, root: pathlib.Path) -> int:
    from glide_jax.sweep import status

    print(status.table(plan, root), flush=True)
    if values.watch is not None:
        with lifecycle.StopRequest() as stop:
            while not stop.sleep(values.watch):
                print(f"\n{status.table(plan, root)}", flush=True)
    return lifecycle.ExitCode.OK


def _report(values: flags.FlagValues, plan: run_list.Plan, root: pathlib.Path) -> int:
    from glide_jax.sweep import report, result

    for path in report.write(plan, root, all_plots=values.all_plots):
        print(path)
    if values.rows:
        result.write_rows(pathlib.Path(values.rows), result.make_rows(plan, root))
        print(values.rows)
    return lifecycle.ExitCode.OK
