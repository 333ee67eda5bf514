"""Train one phase. Started again with the same --workdir, the run resumes.

    glide train --config=experiments/configs/base64.py:tiny --workdir=runs/base
    glide train --config=experiments/configs/base64_cfg.py:tiny --workdir=runs/cfg \\
        --config.train.init_from=runs/base --config.optim.learning_rate=3e-4

`glide help settings` lists the settings that --config.section.key=value can change.

A fresh start first reads up to 256 records, for at most five seconds, and is refused if
data.max_bad_frac would end the run; --dry_run reads up to --check_records. Several
sources are separated by commas, as in --config.data.sources=folder:a,folder:b: a comma
separates sources only if the kind of another one follows.

The command is started on every host of a cluster and trains one run. Under srun and on
Cloud TPUs the processes find each other; elsewhere set
GLIDE_JAX_COORDINATOR=host:port, GLIDE_JAX_NUM_PROCESSES and GLIDE_JAX_PROCESS_ID.
launch/local.sh starts several processes on one machine.
"""

from __future__ import annotations

import pathlib
import signal
from typing import TYPE_CHECKING

from absl import flags

from glide_jax.cli import config_flag, define, processes
from glide_jax.errors import UserError
from glide_jax.runtime import lifecycle

if TYPE_CHECKING:
    from glide_jax.config import defaults


def define_flags(values: flags.FlagValues) -> None:
    """Defines --config (a file, followed by :size), --workdir and how to run it."""
    config_flag.define(values)
    define.Define(values).path("workdir", "folder of this run, e.g. runs/base")
    flags.DEFINE_list(
        "allow_change",
        [],
        "settings that may differ from those of the workdir's run, e.g. "
        "model.compute_dtype,data.sources",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "dry_run",
        False,
        "run all checks of a start (with --workdir also that its run can resume), "
        "print the settings, parameters by part and shardings, read the data like "
        "`glide data check`, and end; nothing is written or downloaded",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "check_records",
        10_000,
        "with --dry_run: number of records to read of the training and of the "
        "validation data, spread over them; 0: none",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "devices",
        None,
        "with --dry_run: check settings, mesh and batch for this many devices of "
        "another machine; data, files and --workdir are not read",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "slices",
        None,
        "with --devices: number of TPU slices; leave it out for other devices",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "profile_steps",
        None,
        "steps to trace for TensorBoard's profiler to WORKDIR/profile; 100:105 traces "
        "100 to 104",
        flag_values=values,
    )


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Trains; grids and evaluations sample the first average of the parameters."""
    from glide_jax.hooks import evaluations, sample_grids
    from glide_jax.parallel import distributed
    from glide_jax.train import loop, profiling, run_folder

    if arguments:
        raise UserError(
            f"{arguments[0]!r} is not a flag; write settings as --config.a.b=value"
        )
    config = config_flag.read(values, example="experiments/configs/base64.py:tiny")
    profile_steps = profiling.read_steps(values.profile_steps)
    stop = lifecycle.current()
    if stop is not None:
        stop.check()
    if values.dry_run:
        # It keeps nothing, so Ctrl-C may end it at once.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _dry_run(config, values)
        return 0
    if values.devices is not None or values.slices is not None:
        raise UserError(
            "--devices and --slices check a start on other devices; add --dry_run, or "
            "leave them out"
        )
    if not values.workdir:
        raise UserError("--workdir is missing, e.g. --workdir=runs/base")
    workdir = pathlib.Path(values.workdir)
    with distributed.Together(config), run_folder.needs_room(workdir):
        processes.quiet_others(distributed.process_id())
        return loop.train(
            config,
            workdir,
            make_grid_hook=sample_grids.make,
            make_evaluation_hook=evaluations.make,
            profile_steps=profile_steps,
            allow_change=values.allow_change,
        )


def _dry_run(config: defaults.Config, values: flags.FlagValues) -> None:
    """Runs the checks of --dry_run, on this machine or for --devices; prints them."""
    from glide_jax.cli import dry_run

    allowed = values.allow_change
    if values.devices is not None:
        placed = dry_run.check_elsewhere(
            config, values.devices, values.slices, allow_change=allowed
        )
        print(dry_run.report(config, placed))
        return
    if values.slices is not None:
        raise UserError("--slices needs the number of devices; add --devices=N")
    workdir = pathlib.Path(values.workdir) if values.workdir else None
    checked = dry_run.check(config, workdir, allow_change=allowed)
    print(dry_run.report(config, checked.placed), flush=True)
    for line in dry_run.read_data(config, checked, values.check_records):
        print(line)
