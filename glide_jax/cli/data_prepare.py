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
pip install -e ".[prepare]", in an environment of its own.
"""

from __future__ import annotations

import logging
import pathlib

from absl import flags

from glide_jax.cli import config_flag, data_flags, define, output_folders
from glide_jax.errors import UserError


def define_flags(values: flags.FlagValues) -> None:
    """Defines the settings, the output and the engine."""
    config_flag.define(values)
    add = define.Define(values)
    add.path("output", "output folder, which all workers reach by this path")
    add.whole("processes", "processes of this machine that work", 1, least=1)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Prepares the pairs."""
    from glide_jax.config import preparation

    data_flags.check_arguments(values, arguments)
    found = config_flag.value(values, example="experiments/data/prepare.py")
    config = preparation.from_config_dict(found)
    # Beam logs the clouds that it lacks when it is imported.
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    try:
        from glide_jax.prepare import engine, job, run
    except ImportError as error:
        if error.name not in ("apache_beam", "sklearn", "py3langid"):
            raise
        raise UserError(
            f'{error.name} is not installed; pip install -e ".[prepare]", in an'
            " environment of its own"
        ) from error
    chosen = engine.make("local", values.processes, "")
    with (
        output_folders.made_folder(values.output) as folder,
        output_folders.alone(folder),
    ):
        work = job.Job(config, pathlib.Path(folder).resolve())
        manifest = run.Run(work, chosen).prepare()
    print(manifest["pairs_kept"], manifest["dropped"], manifest["sha256"])
    return 0
