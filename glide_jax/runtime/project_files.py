"""Finds the project's own configurations, sweeps and templates.

A checkout has them in experiments/ and launch/ beside the package. A wheel carries
copies of the same folders in `glide_jax/_project` (see setup.py).
"""

from __future__ import annotations

import functools
import logging
import os
import pathlib

_log = logging.getLogger(__name__)
_PACKAGE = pathlib.Path(__file__).parents[1]
CONFIGS = "experiments/configs"
SWEEPS = "experiments/sweeps"


def root() -> pathlib.Path:
    """The folder that holds experiments/ and launch/."""
    checkout = _PACKAGE.parent
    return checkout if (checkout / CONFIGS).is_dir() else _PACKAGE / "_project"


def locate(given: str, folder: str, flag: str) -> str:
    """The path of a user's file, or of a project file given by name.

    The first of these that is a file: the path as given; the same path below `root`;
    NAME or NAME.py in `folder` of `root`. One line in the log names the file if it is
    not the path as given. If there is none, the path is returned as given.

    Args:
      given: a path, or a name such as base64 or base64.py.
      folder: CONFIGS or SWEEPS.
      flag: where the user gave it, e.g. "--config"; "" for an argument.
    """
    if os.path.isfile(given) or os.path.isabs(given):
        return given
    choices = [root() / given]
    if os.path.basename(given) == given:
        choices += [root() / folder / name for name in (given, f"{given}.py")]
    for path in choices:
        if path.is_file():
            _say(f"{flag}={given}" if flag else given, str(path))
            return str(path)
    return given


@functools.cache
def _say(given: str, path: str) -> None:
    """Logs, once per process, which file is read."""
    _log.info("%s is %s", given, path)
