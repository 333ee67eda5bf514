"""Reads and checks a sweep file: its command and its function sweep()."""

from __future__ import annotations

import importlib.util
import math
import pathlib
import shlex
import traceback
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from glide_jax.errors import UserError
from glide_jax.sweep.combine import Overrides

EXAMPLE = 'COMMAND = "train --config=experiments/configs/base64.py:tiny"'
# Errors that a user's code may raise, except those that end a process.
MISTAKES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    SystemExit,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


class Definition(NamedTuple):
    """The contents of a sweep file.

    Attributes:
      name: The name of the file.
      command: Words after `glide`.
      overrides: One dict for each run.
    """

    name: str
    command: tuple[str, ...]
    overrides: list[Overrides]


def load(path: pathlib.Path) -> Definition:
    """Runs the file and its sweep().

    Raises:
      UserError: The file is missing, raises an error, or is incomplete.
    """
    module = _import(path)
    command = getattr(module, "COMMAND", None)
    if not isinstance(command, str) or not command.strip():
        raise UserError(
            f"{path} has no COMMAND, which its runs start; add a line such as {EXAMPLE}"
        )
    function = getattr(module, "sweep", None)
    if not callable(function):
        raise UserError(
            f"{path} has no function sweep(); add one that returns a list of overrides "
            "such as [{'seed': 0}, {'seed': 1}]"
        )
    try:
        runs = function()
        if isinstance(runs, Iterable) and not isinstance(runs, Mapping | str):
            runs = list(runs)  # a generator raises only here
    except MISTAKES as error:
        raise _to_user_error(path, error) from error
    return Definition(path.stem, _words(path, command), _checked(path, runs))


def _words(path: pathlib.Path, command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError as error:
        raise UserError(
            f"COMMAND of {path} is {command!r} ({error}); write it as for a shell"
        ) from error


def _import(path: pathlib.Path) -> ModuleType:
    if not path.is_file():
        raise UserError(
            f"there is no sweep file {path}; name one such as "
            "experiments/sweeps/lr_batch.py"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; a sweep file ends with .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except MISTAKES as error:
        raise _to_user_error(path, error) from error
    return module


def _to_user_error(path: pathlib.Path, error: BaseException) -> UserError:
    """Returns one line with the last line of the file in the error's traceback."""
    # importlib makes the path absolute.
    file = str(path.absolute())
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    if isinstance(error, SyntaxError) and error.filename == file:
        lines = [error.lineno]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return UserError(f"{where}: {kind}{text}; correct the sweep file")


def _checked(path: pathlib.Path, runs: Any) -> list[Overrides]:
    if isinstance(runs, Mapping | str) or not hasattr(runs, "__iter__"):
        raise UserError(
            f"sweep() of {path} returned a {type(runs).__name__}; return a list of "
            "overrides, one dict for each run"
        )
    if not runs:
        raise UserError(
            f"sweep() of {path} returned no runs; return one dict of overrides or more"
        )
    for number, overrides in enumerate(runs):
        if not isinstance(overrides, Mapping):
            raise UserError(
                f"run {number} of {path} is {overrides!r}; return a dict of overrides "
                "such as {'seed': 0}"
            )
        for key, value in overrides.items():
            _check_pair(f"run {number} of {path}", key, value)
    return [dict(overrides) for overrides in runs]


def _check_pair(where: str, key: Any, value: Any) -> None:
    if not isinstance(key, str) or not key:
        raise UserError(
            f"{where} has the key {key!r}; a key is the name of a setting or a flag"
        )
    if not _is_plain(value):
        raise UserError(
            f"{where}: {key}={value!r} is a {type(value).__name__}, which neither JSON "
            "nor a command line can state; use a text, a finite number, a bool, or a "
            "tuple of these"
        )


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int)
