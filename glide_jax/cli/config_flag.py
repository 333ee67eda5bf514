"""The flag that names a configuration: PATH, PATH:SIZE, or NAME:SIZE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from glide_jax.errors import UserError
from glide_jax.runtime import paths, project_files

if TYPE_CHECKING:
    from glide_jax.config import defaults


class _LocalFile(flags.ArgumentParser):
    """Finds the file of PATH, PATH:SIZE or NAME:SIZE before it is read."""

    def __init__(self, name: str, reader: flags.ArgumentParser):
        self._name, self._reader = f"--{name}", reader

    def parse(self, argument: str) -> object:
        place, colon, size = paths.local_text(argument, self._name).partition(":")
        place = project_files.locate(place, project_files.CONFIGS, self._name)
        return self._reader.parse(f"{place}{colon}{size}")


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
    except OSError as error:  # ml_collections tells of a missing file at its first use
        raise UserError(
            f"--{name}: {str(error).splitlines()[-1].strip()}; name a file such as "
            f"{example}"
        ) from error
    return resolve.from_config_dict(found)
