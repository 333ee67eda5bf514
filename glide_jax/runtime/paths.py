"""Paths that a user gives, and the project's own files.

A checkout has the configurations, sweeps and templates in experiments/ and launch/
beside the package. A wheel carries copies of the same folders in `glide_jax/_project`
(see setup.py).
"""

from __future__ import annotations

import functools
import logging
import os
import pathlib
import re

from glide_jax.errors import UserError
from glide_jax.runtime import mirrors, object_store

CACHE_VARIABLE = "GLIDE_JAX_CACHE"
# RFC 3986, section 3.1. One letter is a Windows drive, not a scheme.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def local_path(
    given: str | os.PathLike[str], name: str, *, has_stores: bool = True
) -> pathlib.Path:
    """The path on this machine, with `~` and `~user` expanded.

    Every path that a flag, a configuration, or a data source takes goes through this
    function or `local_text` before anything is read or created. Arguments and errors
    are those of `local_text`.
    """
    path = pathlib.Path(local_text(given, name, has_stores=has_stores))
    # ./~ became ~, which another reader of the path would expand.
    return path.absolute() if str(path).startswith("~") else path


def local_text(
    given: str | os.PathLike[str], name: str, *, has_stores: bool = True
) -> str:
    """The path as the user wrote it, with `~` and `~user` expanded.

    The result expands to itself: ./~ stays ./~, which `pathlib.Path` shortens to ~. For
    a place in an object store it is the folder that mirrors it; see `mirrors`.

    Args:
      given: what the user wrote.
      name: where the user wrote it, for the error, e.g. "--workdir" or
        "train.init_from".
      has_stores: whether a place in an object store may be given.

    Raises:
      UserError: a URL other than gs:// and s3://, or of a store that cannot be used;
        an empty path; `~user` of a user that does not exist.
    """
    text = os.fspath(given)
    if not text:
        raise UserError(f"{name} is empty; give a path")
    if object_store.is_url(text) and has_stores:
        return str(mirrors.local(text, name, cache_folder() / "stores"))
    if _URL.match(text):
        kinds = "gs:// and s3://" if has_stores else "no URL"
        raise UserError(
            f"{name}={text} is a URL, and {kinds} can be used here; give the path of a "
            "folder of this machine"
        )
    expanded = os.path.expanduser(text)
    if text.startswith("~") and expanded == text:
        raise UserError(
            f"{name}={text}: {text.split('/')[0]} is not a user of this machine; give"
            " the path without ~, or ./~ for a folder of that name"
        )
    return expanded


def cache_folder() -> pathlib.Path:
    """$GLIDE_JAX_CACHE, else $XDG_CACHE_HOME/glide_jax, else ~/.cache/glide_jax."""
    if given := os.environ.get(CACHE_VARIABLE):
        return local_path(given, CACHE_VARIABLE, has_stores=False)
    if given := os.environ.get("XDG_CACHE_HOME"):
        return local_path(given, "XDG_CACHE_HOME", has_stores=False) / "glide_jax"
    return local_path("~/.cache", "the cache folder") / "glide_jax"


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
            _log_path(f"{flag}={given}" if flag else given, str(path))
            return str(path)
    return given


@functools.cache
def _log_path(given: str, path: str) -> None:
    """Logs, once per process, which file is read."""
    _log.info("%s is %s", given, path)
