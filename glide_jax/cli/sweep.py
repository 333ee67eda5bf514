"""Run the runs of a sweep file, here or on a cluster; show and report them.

    glide sweep experiments/sweeps/lr_batch.py --root=runs/lr_batch --parallel=2
    glide sweep experiments/sweeps/caption_drop.py --root=runs/drop --runner=slurm \\
        --gpus=1 --chip=h100 --parallel=8
    glide sweep --root=runs/lr_batch --status
    glide sweep --root=runs/lr_batch --report

Flags that follow a -- go to every run. Started again, finished runs are skipped, others
go on where they were. A sweep file names what its runs start, as COMMAND, and returns
their overrides from sweep(); experiments/sweeps holds examples. A run whose data or
bundle is missing ends the sweep before any run is started; see --check_inputs. A
finished run whose bundles or configuration have changed since is refused: it is not
what its command says.
"""

from __future__ import annotations

import logging
import math
import pathlib
import shlex

from absl import flags

from glide_jax.cli import define, sweep_check
from glide_jax.errors import UserError
from glide_jax.runtime import lifecycle, paths

RUNNERS = ("local", "slurm", "jobset", "print")
# Flags that one runner alone reads, or two.
CLUSTER_FLAGS = {
    "gpus": ("slurm",),
    "cpus": ("slurm",),
    "mem": ("slurm",),
    "partition": ("slurm",),
    "account": ("slurm",),
    "time": ("slurm",),
    "chip": ("slurm", "jobset"),
    "image": ("jobset",),
    "volume": ("jobset",),
    "limits": ("jobset",),
    "node_selector": ("jobset",),
    "namespace": ("jobset",),
}


def define_flags(values: flags.FlagValues) -> None:
    """What to do, where, and what the cluster is to be told."""
    add = define.Define(values)
    add.path(
        "root", "folder of the sweep, on a disk with file locks, e.g. runs/lr_batch"
    )
    add.text(
        "runner",
        "local: processes of this machine; slurm: one array job; jobset: one indexed "
        "JobSet by kubectl; print: a command a line, to be run anywhere",
        "local",
    )
    add.whole(
        "parallel",
        "runs at a time, e.g. 2; on a machine with several GPUs set "
        "CUDA_VISIBLE_DEVICES=0,1,..., which is shared out among them: where it is not "
        "set, every run takes every GPU",
        1,
    )
    add.whole(
        "restarts",
        "maximum restarts of a run after a retryable exit code",
        100,
        least=0,
    )
    add.switch("retry_failed", "also start runs again that failed by a mistake", False)
    add.text("only", "run the run with this id alone, as all runners do")
    add.switch(
        "check_inputs",
        "before the first run is started, look for the data, bundles and files of all; "
        "--nocheck_inputs where they are on another machine, as they are taken to be "
        "with --runner=jobset and print",
        True,
    )
    add.switch("dry_run", "print what would be run, and end", False)
    add.switch("status", "show a table of the runs, and end", False)
    add.number("watch", "with --status: show it anew every so many seconds, e.g. 5")
    add.switch("report", "write results.csv, results.md and plots of them", False)
    add.switch(
        "all_plots",
        "with --report: also plot figures by quarter of the noise, and of training "
        "more than the losses",
        False,
    )
    add.path(
        "rows",
        "with --report: also write a JSON row for each finished run to this file, e.g. "
        "experiments/results/sweeps/lr_batch.jsonl",
    )
    _define_cluster_flags(add)


def _define_cluster_flags(add: define.Define) -> None:
    add.whole("gpus", "slurm: of each run, on one node (none)", least=1)
    meaning = "slurm: cores of each run; the cluster decides, perhaps one, unless given"
    add.whole("cpus", meaning, least=1)
    add.renamed("cpus_per_task", "cpus")
    add.text("mem", "slurm: memory of each run, e.g. 64G; the cluster's unless given")
    add.text("partition", "slurm: as sbatch has it")
    add.text("account", "slurm: as sbatch has it")
    add.text("time", "slurm: limit of a task, after which it requeues, e.g. 12:00:00")
    add.text("chip", "slurm, jobset: whose compiler flags to set, e.g. h100 (cpu)")
    add.text(
        "image", "jobset: this checkout with its environment; see launch/Dockerfile"
    )
    add.text("volume", "jobset: claim and place of a shared volume, e.g. shared:/nfs")
    add.texts("limits", "jobset: resources of a run, e.g. nvidia.com/gpu=1")
    add.texts(
        "node_selector",
        "jobset: label of the nodes, e.g. cloud.google.com/gke-tpu-topology=2x4",
    )
    add.text("namespace", "jobset: kubectl's own unless given")


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Does one of: status, report, one run, all runs by a runner."""
    from glide_jax.sweep import run_list

    _check_flags(values)
    root = paths.local_path(values.root, "--root")
    if not arguments and (values.status or values.report):
        return _show(values, run_list.read(root), root)
    if values.status or values.report:
        raise UserError(
            f"--status and --report read {root}/plan.json; leave out {arguments[0]}"
        )
    if values.only:
        return _run_one(values, _kept_plan(values.only, root, arguments), root)
    plan = _make_plan(arguments)
    sweep_check.check_runs(plan, root, looks=_looks_for_inputs(values))
    return _run_all(values, plan, root, arguments)


def _looks_for_inputs(values: flags.FlagValues) -> bool:
    """Whether the runs' data and bundles are to be found from here."""
    if values.check_inputs and values.runner in ("local", "slurm"):
        return True
    why = f"--runner={values.runner}" if values.check_inputs else "--nocheck_inputs"
    logging.info("data, bundles and files of the runs are not looked for (%s)", why)
    return False


def _check_flags(values: flags.FlagValues) -> None:
    if not values.root:
        raise UserError("--root is missing, e.g. --root=runs/lr_batch")
    if values.runner not in RUNNERS:
        raise UserError(
            f"--runner={values.runner} is not known; use one of {', '.join(RUNNERS)}"
        )
    if values.parallel < 1:
        raise UserError(f"--parallel={values.parallel} runs none; use 1 or more")
    for name, runners in CLUSTER_FLAGS.items():
        if values[name].value is not None and values.runner not in runners:
            raise UserError(
                f"--{name} is read by --runner={' and '.join(runners)} alone; leave it "
                "out"
            )
    if values.all_plots and not values.report:
        raise UserError("--all_plots is read by --report; add it")
    if values.rows and not values.report:
        raise UserError("--rows is written by --report; add it")
    if values.watch is not None and not (values.status and 0 < values.watch < math.inf):
        raise UserError(
            f"--watch={values.watch:g} shows --status every so many seconds; use e.g. "
            "--status --watch=5"
        )


def _make_plan(arguments: list[str]):
    from glide_jax.sweep import run_list, sweep_file

    if not arguments or arguments[0].startswith("-"):
        raise UserError(
            "no sweep file is given; name one such as experiments/sweeps/lr_batch.py"
        )
    path, *shared = arguments
    for word in shared:
        if not word.startswith("--"):
            raise UserError(
                f"{word!r} is no flag; one sweep file is named, and after -- follow "
                "flags for all runs, such as --config.train.num_steps=30"
            )
    path = paths.locate(paths.local_text(path, "sweep file"), paths.SWEEPS, "")
    return run_list.make(sweep_file.load(pathlib.Path(path)), shared)


def _kept_plan(run_id: str, root: pathlib.Path, arguments: list[str]):
    """The folder's plan: its runs outlive changes of the sweep file.

    Where a run is the first to come to the folder, it makes the plan.
    """
    from glide_jax.sweep import run_list

    if (root / "plan.json").is_file():
        kept = run_list.read(root)
        if any(run.id == run_id for run in kept.runs):
            return kept
    plan = _make_plan(arguments)
    plan.run(run_id)
    run_list.keep(plan, root)
    return plan


def _run_one(values: flags.FlagValues, plan, root: pathlib.Path) -> int:
    from glide_jax.sweep import run_supervisor

    chosen = plan.run(values.only)
    with lifecycle.StopRequest() as stop:
        return run_supervisor.run(plan, chosen, root, stop, restarts=values.restarts)


def _run_all(
    values: flags.FlagValues, plan, root: pathlib.Path, arguments: list[str]
) -> int:
    from glide_jax.sweep import run_list, state

    left = [run for run in plan.runs if not state.RunRecord(root, run.id).is_finished]
    if values.dry_run and values.runner == "local":
        for run_ in left:
            print(shlex.join(["glide", *run_list.arguments(plan, run_, root)]))
        return lifecycle.ExitCode.OK
    if not values.dry_run and values.runner != "jobset":
        run_list.keep(plan, root)
    failed = [run for run in left if state.RunRecord(root, run.id).has_failed]
    if failed and not values.retry_failed:
        left = [run for run in left if run not in failed]
        logging.warning(
            "%d failed runs are not started again, %s first (%s; log: %s); "
            "--retry_failed starts them",
            len(failed),
            failed[0].label,
            state.RunRecord(root, failed[0].id).reason() or "it printed nothing",
            state.RunRecord(root, failed[0].id).log,
        )
    logging.info("%s: %d of %d runs to do", plan.name, len(left), len(plan.runs))
    words = _words(values, arguments)
    if values.runner == "print":
        for run_ in left:
            print(shlex.join(["glide", words[0], f"--only={run_.id}", *words[1:]]))
    elif values.runner == "local":
        return _run_here(values, left, root, words)
    elif left:
        _submit(values, plan, [run.id for run in left], words)
    return lifecycle.ExitCode.OK


def _run_here(
    values: flags.FlagValues, left: list, root: pathlib.Path, words: list[str]
) -> int:
    from glide_jax.sweep import local

    with lifecycle.StopRequest() as stop:
        code = local.run(left, root, words, stop, parallel=values.parallel)
    print(f"table: glide sweep --root={root} --report")
    return code


def _submit(values: flags.FlagValues, plan, ids: list[str], words: list[str]) -> None:
    from glide_jax.parallel import compiler
    from glide_jax.sweep import submit

    chip = values.chip or "cpu"
    if chip not in compiler.CHIPS:
        raise UserError(
            f"--chip={chip} is not known; use one of {', '.join(compiler.CHIPS)}"
        )
    job = submit.Job(
        name=plan.name,
        ids=ids,
        words=words,
        root=values.root,
        parallel=values.parallel,
        restarts=values.restarts,
        chip=chip,
    )
    if values.runner == "slurm":
        command, remedy = ["sbatch"], "run this on a login node of the cluster"
        text = submit.slurm_script(
            job,
            gpus=values.gpus,
            cpus=values.cpus,
            mem=values.mem,
            partition=values.partition or "",
            account=values.account or "",
            time=values.time or "",
        )
    else:
        of = [f"--namespace={values.namespace}"] if values.namespace else []
        command, remedy = ["kubectl", "apply", *of, "-f", "-"], "install it"
        text = submit.jobset_manifest(
            job,
            image=values.image or "",
            volume=values.volume or "",
            limits=values.limits or (),
            selectors=values.node_selector or (),
        )
    if values.dry_run:
        print(
            f"--- {' '.join(command)}, with this on its standard input\n{text}", end=""
        )
    else:
        submit.hand_over(command, text, remedy)


def _words(values: flags.FlagValues, arguments: list[str]) -> list[str]:
    """What follows `glide` to run one run, but for its --only."""
    path, *shared = arguments
    words = ["sweep", path, f"--root={values.root}", f"--restarts={values.restarts}"]
    return [*words, "--", *shared] if shared else words


def _show(values: flags.FlagValues, plan, root: pathlib.Path) -> int:
    from glide_jax.sweep import status

    if values.report:
        return _report(values, plan, root)
    print(status.table(plan, root), flush=True)
    if values.watch is not None:
        with lifecycle.StopRequest() as stop:
            while not stop.sleep(values.watch):
                print(f"\n{status.table(plan, root)}", flush=True)
    return lifecycle.ExitCode.OK


def _report(values: flags.FlagValues, plan, root: pathlib.Path) -> int:
    from glide_jax.sweep import report, result

    for path in report.write(plan, root, all_plots=values.all_plots):
        print(path)
    if values.rows:
        result.write_rows(pathlib.Path(values.rows), result.make_rows(plan, root))
        print(values.rows)
    return lifecycle.ExitCode.OK
