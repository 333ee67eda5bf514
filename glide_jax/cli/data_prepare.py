"""Filter, deduplicate and shuffle captioned pictures into shards for training.

    glide data prepare --config=experiments/data/prepare.py --output=runs/prepared \\
        --config.data.sources=webdataset:raw
    glide data prepare --config=experiments/data/prepare.py --output=runs/prepared \\
        --config.data.sources=folder:a,parquet:b.parquet --processes=8

It reads pairs from any source of `glide train`, drops those that break a rule of the
configuration, and writes the others in an order that is a function of the seed, to tars
or ArrayRecord files that training reads by index. The manifest, which comes last, has
the counts by rule and the digest of each shard. docs/data_preparation.md describes the
rules and the settings.

The same command continues a run that was stopped or killed. It needs Apache Beam:
pip install -e ".[prepare]", in an environment of its own. With --runner it runs on
another engine, whose workers reach the sources and the output by the same paths.
"""

from __future__ import annotations

import logging
import pathlib
import shlex

from absl import flags

from glide_jax.cli import config_flag, data_flags, define, output_folders
from glide_jax.errors import UserError

EXAMPLE = "experiments/data/prepare.py"
_EXTRA = ("apache_beam", "py3langid", "sklearn")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the settings, the output and the engine."""
    config_flag.define(values)
    add = define.Define(values)
    add.path("output", "output folder, which all workers reach by this path")
    add.whole("processes", "processes of this machine that work", 1, least=1)
    add.text("runner", "local, dask, flink, spark or dataflow", "local")
    add.text(
        "runner_options",
        "options of Beam, e.g. '--flink_master=localhost:8081 --parallelism=64'",
        "",
    )
    add.switch(
        "dry_run",
        "check the settings, the sources and the runner, print what would run, and end",
        False,
    )


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Prepares the pairs."""
    from glide_jax.config import preparation

    data_flags.check_arguments(values, arguments)
    found = config_flag.value(values, example=EXAMPLE)
    config = preparation.from_config_dict(found)
    # Beam logs the clouds that it lacks when it is imported.
    logging.disable(logging.WARNING)
    try:
        from glide_jax.prepare import checks, engine, job, report
        from glide_jax.prepare import run as stages
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise UserError(
            f'{error.name} is not installed; pip install -e ".[prepare]", in an'
            " environment of its own"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    chosen = engine.make(values.runner, values.processes, values.runner_options)
    work = job.Job(config, pathlib.Path(values.output).resolve())
    lines = checks.check(work)
    if values.dry_run:
        print(preparation.to_json(config), end="")
        print(*lines, sep="\n")
        print(f"runner: {engine.RUNNERS[chosen.name].path}")
        print(f"options of Beam: {shlex.join(chosen.arguments())}")
        return 0
    with (
        output_folders.made_folder(values.output) as folder,
        output_folders.alone(folder),
    ):
        manifest = stages.Run(work, chosen).prepare()
    print(*report.describe(manifest, pathlib.Path(values.output)), sep="\n")
    return 0
