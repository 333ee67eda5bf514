"""Defines the flag of a configuration: PATH, PATH:SIZE, or NAME:SIZE."""

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
    from ml_collections import ConfigDict

    from glide_jax.config import defaults

# --config.data.sources and --config.data.validation_sources, and their values.
_SOURCES = re.compile(r"(--?\w+\.data\.(?:validation_)?sources)(?:=(.*))?", re.DOTALL)
# --config.SECTION.KEY, with or without its value.
_SETTING = re.compile(r"--?\w+\.([\w.]+)")
# Exceptions of a mistake in an experiment file.
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
    """Resolves PATH, PATH:SIZE or NAME:SIZE to a file, and reads it."""

    def __init__(self, name: str, reader: flags.ArgumentParser):
        self._name, self._reader = f"--{name}", reader

    def parse(self, argument: str) -> object:
        place, colon, size = paths.local_text(
            argument, self._name, has_stores=False
        ).partition(":")
        place = paths.locate(place, paths.CONFIGS, self._name)
        if not os.path.isfile(place):
            raise UserError(
                f"{self._name}={argument} is not a file; use e.g. "
                "experiments/configs/base64.py:tiny"
            )
        try:
            found = self._reader.parse(f"{place}{colon}{size}")
        except _MISTAKES as error:
            raise UserError(_describe_error(error, place)) from error
        if found is None or isinstance(found, bool | int | float | str | list | tuple):
            raise UserError(
                f"{self._name}={argument}: get_config returned {found!r}; return a "
                "ConfigDict, as experiments/configs/base64.py does"
            )
        return found


def _describe_error(error: Exception, place: str) -> str:
    """Formats the error of an experiment file: file, line, exception."""
    # ml_collections wraps ValueError and TypeError with a long traceback.
    while isinstance(error.__context__, _MISTAKES):
        error = error.__context__
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, AttributeError) and error.name == "get_config":
        return (
            f"{place} has no function get_config(size); add one, as in "
            "experiments/configs/base64.py"
        )
    if isinstance(error, TypeError) and "argument: 'size'" in str(error):
        return f"{place} needs a size; give one, e.g. --config={place}:tiny"
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
    """Defines --config, or `name`, and the overrides --config.SECTION.KEY=VALUE."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_file(
        name,
        help_string="experiment file with get_config(size), as PATH or PATH:SIZE, or a "
        "name in experiments/configs, e.g. base64:tiny; "
        f"override settings by --{name}.SECTION.KEY=VALUE",
        lock_config=True,
        flag_values=values,
    )
    values[name].parser = _LocalFile(name, values[name].parser)


def quote_sources(words: Sequence[str]) -> list[str]:
    """Converts plain lists of data sources on a command line to Python tuples.

    ml_collections parses tuples as Python. "folder:a,folder:b" becomes "('folder:a',
    'folder:b')". A comma separates sources only if a kind of source follows, so paths
    and braces such as {a,b} may contain commas. An empty value becomes "()". A Python
    tuple is unchanged.
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
    """Describes the unknown setting of a command line, with the nearest known one.

    Args:
      message: the error of ml_collections, which starts with the wrong part of a name.
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
    return f"{unknown[0]} is not a setting{meant}"


def _as_tuple(value: str) -> str:
    from glide_jax.data import source_kinds

    value = value.strip()
    if not value:
        return "()"
    if not source_kinds.is_spec(value):
        return value
    kinds = "|".join(source_kinds.names())
    return repr(tuple(re.split(rf",\s*(?=(?:{kinds}):)", value)))


def is_one(flag: flags.Flag) -> bool:
    """Whether `define` defined the flag."""
    return isinstance(flag.parser, _LocalFile)


def read(
    values: flags.FlagValues, name: str = "config", *, example: str
) -> defaults.Config:
    """Returns the settings of the flag; messages show the file `example`.

    Raises:
      UserError: the flag is missing, or the file is invalid.
    """
    from glide_jax.config import resolve

    return resolve.from_config_dict(value(values, name, example=example))


def value(
    values: flags.FlagValues, name: str = "config", *, example: str
) -> ConfigDict:
    """Returns the locked ConfigDict of the flag; messages show the file `example`.

    Raises:
      UserError: the flag is missing, or the file is invalid.
    """
    found = values[name].value
    if found is None:
        raise UserError(f"--{name} is missing, e.g. --{name}={example}")
    try:
        found.lock()
    except OSError as error:  # ml_collections defers errors of the file
        raise UserError(
            f"--{name}: the file failed ({error.__cause__}); correct it"
        ) from error
    return found
