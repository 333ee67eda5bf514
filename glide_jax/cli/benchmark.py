"""Flags, settings and output shared by `benchmark sample` and `benchmark train`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from absl import flags

from glide_jax.cli import config_flag, define
from glide_jax.errors import UserError

if TYPE_CHECKING:
    from glide_jax.config import defaults


def define_flags(values: flags.FlagValues, least: int, batch: str) -> define.Define:
    """Defines --config, --batch, --repeats, --compute_dtype and --output.

    Args:
      values: the verb's flags.
      least: default and minimum of --repeats.
      batch: help text of --batch.

    Returns:
      The helper that defines the verb's other flags.
    """
    config_flag.define(values)
    add = define.Define(values)
    add.whole("batch", batch, least=1)
    meaning = f"timed runs; the row has their median; {least} or more"
    add.whole("repeats", meaning, default=least, least=1)
    meaning = "float32, bfloat16 or float16; default: the configuration's"
    add.text("compute_dtype", meaning)
    add.path("output", "file to which the row is appended, e.g. rows.jsonl")
    return add


def check(
    values: flags.FlagValues, arguments: list[str], verb: str, least: int
) -> None:
    """Checks the flags.

    Raises:
      UserError: positional arguments, no --config, or too few repeats.
    """
    if arguments:
        raise UserError(
            f"{arguments[0]!r} is not a flag; settings are --config.section.key=value"
        )
    if values.config is None:
        raise UserError(
            "--config is missing, e.g. --config=experiments/configs/base64.py:released"
        )
    if values.repeats < least:
        raise UserError(
            f"--repeats={values.repeats} is too few for glide {verb}; use {least} or "
            "more"
        )


def write_row(values: flags.FlagValues, measure: Callable[[], Any]) -> int:
    """Measures, prints the row, and appends it to --output.

    Raises:
      UserError: --output cannot be written; nothing is measured then.
    """
    with _open_output(values.output) as output:
        row = json.dumps(measure())
        print(row)
        if output is not None:
            output.write(row + "\n")
    return 0


def read_config(
    values: flags.FlagValues, name: str, changes: Mapping[str, Any]
) -> defaults.Config:
    """Reads the configuration of a flag, and applies the changes of other flags.

    Raises:
      UserError: the file does not exist, or a setting breaks a rule.
    """
    from glide_jax.config import resolve, validate

    example = "experiments/configs/base64.py:released"
    config = config_flag.read(values, name, example=example)
    given = {**changes, "model.compute_dtype": values.compute_dtype}
    config = resolve.override(
        config, {path: value for path, value in given.items() if value is not None}
    )
    validate.validate(config)
    return config


@contextlib.contextmanager
def _open_output(path: str | None) -> Iterator[IO[str] | None]:
    """Opens the file to append to, before the measurement; yields None without one."""
    if path is None:
        yield None
        return
    try:
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115, closed below
    except OSError as error:
        raise UserError(
            f"--output={path} cannot be written ({error.strerror}); give a file in an "
            "existing folder, e.g. rows.jsonl"
        ) from error
    with file:
        yield file
