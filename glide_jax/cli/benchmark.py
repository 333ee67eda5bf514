"""What `benchmark sample` and `benchmark train` share: flags, settings and the row."""

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
    """--config, --batch, --repeats, --compute_dtype and --output.

    Args:
      values: where they are defined.
      least: the default of --repeats, and the least that is accepted.
      batch: the meaning of --batch.

    Returns:
      What defines the verb's other flags.
    """
    config_flag.define(values)
    add = define.Define(values)
    add.whole("batch", batch, least=1)
    meaning = f"timed runs, of which the row has the median; {least} or more"
    add.whole("repeats", meaning, default=least, least=1)
    add.text("compute_dtype", "float32, bfloat16 or float16; the configuration's")
    add.path("output", "file that the row is added to, e.g. rows.jsonl")
    return add


def check(
    values: flags.FlagValues, arguments: list[str], verb: str, least: int
) -> None:
    """Refuses words that are no flags, a missing --config, and too few repeats.

    Raises:
      UserError: one of these.
    """
    if arguments:
        raise UserError(
            f"{arguments[0]!r} is no flag; settings are --config.section.key=value"
        )
    if values.config is None:
        raise UserError(
            "--config is missing, e.g. --config=experiments/configs/base64.py:released"
        )
    if values.repeats < least:
        raise UserError(
            f"--repeats={values.repeats} says little of glide {verb}; "
            f"time at least {least}"
        )


def write_row(values: flags.FlagValues, measure: Callable[[], Any]) -> int:
    """Prints the row, and adds it to --output.

    Raises:
      UserError: --output cannot be written; nothing has been measured then.
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
    """The configuration of a flag, with what other flags say of it.

    Raises:
      UserError: it names no file, or its settings break a rule.
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
    """The file to add to, opened before the work, or None."""
    if path is None:
        yield None
        return
    try:
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115, closed below
    except OSError as error:
        raise UserError(
            f"--output={path} cannot be written ({error.strerror}); name a file in a "
            "folder that is there, e.g. rows.jsonl"
        ) from error
    with file:
        yield file
