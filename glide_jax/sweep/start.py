"""Plans a sweep and starts the runs that are left by one of the runners."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from glide_jax.errors import UserError
from glide_jax.runtime import paths
from glide_jax.sweep import run_list, runners, state, sweep_file


def make_plan(arguments: Sequence[str]) -> run_list.Plan:
    """Returns the plan of a sweep file and the flags that all of its runs share.

    Args:
      arguments: The path of the file, then flags.

    Raises:
      UserError: There is no file, or another word than a flag follows.
    """
    if not arguments or arguments[0].startswith("-"):
        raise UserError(
            "no sweep file is given; name one such as experiments/sweeps/lr_batch.py"
        )
    path, *shared = arguments
    for word in shared:
        if not word.startswith("--"):
            raise UserError(
                f"{word!r} is not a flag; give one sweep file, and after -- flags for "
                "all runs, such as --config.train.num_steps=30"
            )
    path = paths.locate(paths.local_text(path, "sweep file"), paths.SWEEPS, "")
    return run_list.make(sweep_file.load(pathlib.Path(path)), shared)


def plan_of_run(
    run_id: str, root: pathlib.Path, arguments: Sequence[str]
) -> run_list.Plan:
    """Returns the plan that has this run: that of the folder, else of the sweep file.

    A run of the folder's plan stays the same when the sweep file changes. A run that is
    not in the folder yet is added to it.
    """
    if (root / "plan.json").is_file():
        kept = run_list.read(root)
        if any(run.id == run_id for run in kept.runs):
            return kept
    plan = make_plan(arguments)
    plan.run(run_id)
    run_list.keep(plan, root)
    return plan


def start(
    plan: run_list.Plan,
    root: pathlib.Path,
    arguments: Sequence[str],
    *,
    runner: str,
    options: Any,
    parallel: int,
    restarts: int,
    retry_failed: bool,
    dry_run: bool,
    show: Callable[[str], None],
) -> int:
    """Starts the runs that are not finished; returns the exit code.

    Args:
      plan: The sweep.
      root: Its folder.
      arguments: As for `make_plan`.
      runner: A key of `runners.RUNNERS`.
      options: Options of that runner.
      parallel: Runs at a time.
      restarts: Maximum restarts of a run.
      retry_failed: Whether runs that failed are started again.
      dry_run: Whether to show what would be started, rather than to start it.
      show: Shows a line to the user.
    """
    records = {run.id: state.RunRecord(root, run.id) for run in plan.runs}
    left = [run for run in plan.runs if not records[run.id].is_finished]
    if not dry_run and runners.RUNNERS[runner].writes_plan:
        run_list.keep(plan, root)
    if not retry_failed:
        left = _without_failed(left, records)
    logging.info("%s: %d of %d runs to do", plan.name, len(left), len(plan.runs))
    path, *shared = arguments
    words = ["sweep", path, f"--root={root}", f"--restarts={restarts}"]
    return runners.RUNNERS[runner].start(
        runners.Start(
            plan=plan,
            runs=left,
            root=root,
            words=[*words, "--", *shared] if shared else words,
            parallel=parallel,
            restarts=restarts,
            options=options,
            dry_run=dry_run,
            show=show,
        )
    )


def _without_failed(
    runs: Sequence[run_list.SweepRun], records: Mapping[str, state.RunRecord]
) -> list[run_list.SweepRun]:
    """Returns the runs that did not fail, and logs how many did."""
    failed = [run for run in runs if records[run.id].has_failed]
    if failed:
        record = records[failed[0].id]
        logging.warning(
            "%d failed runs are not started again, %s first (%s; log: %s); "
            "--retry_failed starts them",
            len(failed),
            failed[0].label,
            record.reason() or "it printed nothing",
            record.log,
        )
    return [run for run in runs if run not in failed]
