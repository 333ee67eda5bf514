"""The flag that names a configuration: PATH or PATH:SIZE, single settings after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from glide_jax.errors import UserError

if TYPE_CHECKING:
    from glide_jax.config import defaults


def define(values: flags.FlagValues, name: str = "config") -> None:
    """Adds --config, or one of another name, and its --config.section.key=value."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_file(
        name,
        help_string="file with get_config(size), as PATH or PATH:SIZE; "
        f"single settings follow as --{name}.section.key=value",
        lock_config=True,
        flag_values=values,
    )


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
