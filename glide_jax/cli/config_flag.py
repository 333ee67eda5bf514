"""The flag that names a configuration: PATH, PATH:SIZE, or NAME:SIZE."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from glide_jax.errors import UserError
from glide_jax.runtime import paths

if TYPE_CHECKING:
    from glide_jax.config import defaults

# --config.data.sources and --config.data.validation_sources, and their values.
_SOURCES = re.compile(r"(--?\w+\.data\.(?:validation_)?sources)(?:=(.*))?", re.DOTALL)
# --config.SECTION.KEY, with or without its value.
_SETTING = re.compile(r"--?\w+\.([\w.]+)")
# What a mistake in a configuration's file raises.
_MISTAKES = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    SyntaxError,
    TypeError,
    ValueError,
)


class _LocalFile(flags.ArgumentParser):
    """Finds the file of PATH, PATH:SIZE or NAME:SIZE before it is read."""

    def __init__(self, name: str, reader: flags.ArgumentParser):
        self._name, self._reader = f"--{name}", reader

    def parse(self, argument: str) -> object:
        place, colon, size = paths.local_text(argument, self._name).partition(":")
        place = paths.locate(place, paths.CONFIGS, self._name)
        if not os.path.isfile(place):
            raise UserError(
                f"{self._name}={argument} names no file; name one such as "
                "experiments/configs/base64.py:tiny"
            )
        try:
            found = self._reader.parse(f"{place}{colon}{size}")
        except _MISTAKES as error:
            raise UserError(_describe_error(error, place)) from error
        if found is None or isinstance(found, bool | int | float | str | list | tuple):
            raise UserError(
                f"{self._name}={argument}: get_config returned {found!r}; it has to "
                "return a ConfigDict, as experiments/configs/base64.py does"
            )
        return found


def _describe_error(error: Exception, place: str) -> str:
    """The mistake in a configuration's file: file, line, what is wrong."""
    # ml_collections raises ValueError and TypeError again, with a page of traceback.
    while isinstance(error.__context__, _MISTAKES):
        error = error.__context__
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, AttributeError) and error.name == "get_config":
        return (
            f"{place} has no function get_config(size); write one, as "
            "experiments/configs/base64.py does"
        )
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == place
    ]
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(error, SyntaxError) and error.filename:
        place, lines, what = error.filename, [error.lineno], error.msg
    line = f", line {lines[-1]}" if lines else ""
    return f"{place}{line}: {what}; correct this file"


def define(values: flags.FlagValues, name: str = "config") -> None:
    """Adds --config, or one of another name, and its --config.section.key=value."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_file(
        name,
        help_string="file with get_config(size), as PATH or PATH:SIZE, or one of the "
        "project's by its name, e.g. base64:tiny; "
        f"single settings follow as --{name}.section.key=value",
        lock_config=True,
        flag_values=values,
    )
    values[name].parser = _LocalFile(name, values[name].parser)


def quote_sources(words: Sequence[str]) -> list[str]:
    """The command line with plain lists of data sources as Python tuples.

    ml_collections reads tuples as Python. "folder:a,folder:b" becomes "('folder:a',
    'folder:b')": a comma ends a source only where the kind of another source follows,
    so that paths and braces such as {a,b} may hold commas. An empty value becomes "()".
    A value that is Python already stays as it is.
    """
    quoted, is_value = [], False
    for word in words:
        found = _SOURCES.fullmatch(word)
        if is_value:
            quoted.append(_as_tuple(word))
        elif found and found[2] is not None:
            quoted.append(f"{found[1]}={_as_tuple(found[2])}")
        else:
            quoted.append(word)
        is_value = not is_value and found is not None and found[2] is None
    return quoted


def describe_unknown(message: str, argv: Sequence[str]) -> str:
    """Which setting of a command line does not exist, and the nearest that does.

    Args:
      message: of ml_collections, which begins with the part of the name that is wrong.
      argv: the command line.
    """
    from glide_jax.config import reference

    part = re.match(r"\W*(\w+)", message)
    names = [found[1] for word in argv if (found := _SETTING.match(word))]
    unknown = [name for name in names if part and part[1] in name.split(".")]
    if not unknown:
        return message
    nearest = reference.nearest(unknown[0])
    meant = f"; did you mean {nearest}?" if nearest else ""
    return f"there is no setting {unknown[0]}{meant}"


def _as_tuple(value: str) -> str:
    from glide_jax.data import sources

    value = value.strip()
    if not value:
        return "()"
    if not sources.is_spec(value):
        return value
    kinds = "|".join(sources.SOURCES)
    return repr(tuple(re.split(rf",\s*(?=(?:{kinds}):)", value)))


def is_one(flag: flags.Flag) -> bool:
    """Whether `define` made the flag."""
    return isinstance(flag.parser, _LocalFile)


def read(
    values: flags.FlagValues, name: str = "config", *, example: str
) -> defaults.Config:
    """The settings that it names; `example` is a file such as may be named.

    Raises:
      UserError: it was not given, or names no file.
    """
    from glide_jax.config import resolve

    found = values[name].value
    if found is None:
        raise UserError(f"--{name} is missing, e.g. --{name}={example}")
    try:
        found.lock()
    except OSError as error:  # ml_collections raises what the file did at its first use
        raise UserError(
            f"--{name}: the file failed ({error.__cause__}); correct it"
        ) from error
    return resolve.from_config_dict(found)
