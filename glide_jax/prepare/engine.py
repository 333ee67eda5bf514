"""Runs Beam pipelines: embedded in this process, in several, or on another engine."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import logging
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator

import apache_beam as beam
from apache_beam.options import pipeline_options

from glide_jax.errors import UserError

LOCAL = "local"
_OPTIONS_FILE = "PIPELINE_OPTIONS_FILE"


@dataclasses.dataclass(frozen=True)
class Runner:
    """An engine.

    Attributes:
      path: module and class of its runner.
      meaning: a phrase for help.
      requires: a module that the runner imports at last, and the pip requirement with
        it; "" if apache-beam has all.
      options: options that have to be given.
    """

    path: str
    meaning: str
    requires: tuple[str, str] = ("", "")
    options: tuple[str, ...] = ()


# DirectRunner would first try Prism, a binary from the web.
RUNNERS = {
    LOCAL: Runner(
        "apache_beam.runners.portability.fn_api_runner.FnApiRunner",
        "in this process, or in --processes of this machine",
    ),
    "dask": Runner(
        "apache_beam.runners.dask.dask_runner.DaskRunner",
        "a Dask cluster, or one of threads here",
        ("dask.distributed", '"apache-beam[dask]"'),
    ),
    "flink": Runner(
        "apache_beam.runners.portability.flink_runner.FlinkRunner",
        "Apache Flink, by Beam's job server",
        options=("flink_master",),
    ),
    "spark": Runner(
        "apache_beam.runners.portability.spark_runner.SparkRunner",
        "Apache Spark, by Beam's job server",
        options=("spark_master_url",),
    ),
    "dataflow": Runner(
        "apache_beam.runners.dataflow.dataflow_runner.DataflowRunner",
        "Google Cloud Dataflow",
        ("google.cloud.dataflow_v1beta3", '"apache-beam[gcp]"'),
        ("project", "region", "temp_location", "sdk_container_image"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Engine:
    """An engine with its options.

    Attributes:
      name: one of RUNNERS.
      processes: processes of this machine, with LOCAL.
      words: Beam's own options, e.g. ("--flink_master=localhost:8081",).
    """

    name: str = LOCAL
    processes: int = 1
    words: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """The options of Beam, as words of a command."""
        if self.name != LOCAL:
            return list(self.words)
        mode = "multi_processing" if self.processes > 1 else "in_memory"
        return [
            f"--direct_running_mode={mode}",
            f"--direct_num_workers={self.processes}",
            *self.words,
        ]

    def run(self, build: Callable[[beam.Pipeline], None]) -> None:
        """Runs the pipeline that `build` makes, and waits for its end."""
        logging.getLogger("apache_beam").setLevel(logging.ERROR)
        options = pipeline_options.PipelineOptions(self.arguments())
        with (
            _quiet_workers(),
            beam.Pipeline(runner=_make(self.name), options=options) as pipeline,
        ):
            build(pipeline)


@contextlib.contextmanager
def _quiet_workers() -> Iterator[None]:
    """Lets the local worker processes log errors only.

    They start without the pipeline's options, and read this file of them.
    """
    text = json.dumps({"beam:option:default_sdk_harness_log_level:v1": "ERROR"})
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(text)
        file.flush()
        os.environ[_OPTIONS_FILE] = file.name
        try:
            yield
        finally:
            del os.environ[_OPTIONS_FILE]


def make(name: str, processes: int, words: str) -> Engine:
    """Checks the engine of a command.

    Args:
      name: one of RUNNERS.
      processes: of this machine.
      words: Beam's own options, as in a shell.

    Raises:
      UserError: the runner is not installed, an option is missing or unknown.
    """
    if name not in RUNNERS:
        *others, last = RUNNERS
        raise UserError(
            f"--runner={name} is not known; use {', '.join(others)} or {last}"
        )
    engine = Engine(name, processes, tuple(shlex.split(words)))
    if name != LOCAL and processes != 1:
        raise UserError(
            f"--processes={processes} is of --runner=local; {name} has its own number"
            " of workers, see --runner_options"
        )
    given = {word.removeprefix("--").partition("=")[0] for word in engine.words}
    missing = [option for option in RUNNERS[name].options if option not in given]
    if missing:
        examples = " ".join(f"--{option}=..." for option in missing)
        raise UserError(
            f"--runner={name} needs {', '.join(missing)};"
            f" add --runner_options='{examples}'"
        )
    check_installed(name)
    importlib.import_module(RUNNERS[name].path.rpartition(".")[0])  # its options
    _, unknown = _parse(engine.arguments())
    if unknown:
        raise UserError(
            f"--runner_options: {unknown[0]} is not an option of Beam; see"
            f" apache_beam.options.pipeline_options"
        )
    return engine


def _parse(words: list[str]) -> tuple[object, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for options in pipeline_options.PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return parser.parse_known_args(words)


def check_installed(name: str) -> None:
    """Raises UserError if the runner lacks a package."""
    module, requirement = RUNNERS[name].requires
    if not module:
        return
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"--runner={name} is not installed ({error}); pip install {requirement}"
        ) from error


def _make(name: str) -> beam.runners.PipelineRunner:
    module, _, class_name = RUNNERS[name].path.rpartition(".")
    return getattr(importlib.import_module(module), class_name)()
