"""Turns a path that a user gives into a path on this machine."""

from __future__ import annotations

import os
import pathlib
import re

from glide_jax import errors

# RFC 3986, section 3.1. One letter is a Windows drive, not a scheme.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def local_path(given: str | os.PathLike[str], name: str) -> pathlib.Path:
    """The path with `~` and `~user` expanded.

    Every path that a flag, a configuration, or a data source takes goes through this
    function or `local_text` before anything is read or created. Arguments and errors
    are those of `local_text`.
    """
    path = pathlib.Path(local_text(given, name))
    # ./~ became ~, which another reader of the path would expand.
    return path.absolute() if str(path).startswith("~") else path


def local_text(given: str | os.PathLike[str], name: str) -> str:
    """The path as the user wrote it, with `~` and `~user` expanded.

    The result expands to itself: ./~ stays ./~, which `pathlib.Path` shortens to ~.

    Args:
      given: what the user wrote.
      name: where the user wrote it, for the error, e.g. "--workdir" or
        "train.init_from".

    Raises:
      UserError: a URL such as gs://bucket/folder; an empty path; `~user` of a user
        that does not exist.
    """
    text = os.fspath(given)
    if not text:
        raise errors.UserError(f"{name} is empty; give a path")
    if _URL.match(text):
        raise errors.UserError(
            f"{name}={text} is a URL, and only paths of mounted disks are read and"
            " written; mount the bucket and give the path of the mount point"
        )
    expanded = os.path.expanduser(text)
    if text.startswith("~") and expanded == text:
        raise errors.UserError(
            f"{name}={text}: {text.split('/')[0]} is not a user of this machine; give"
            " the path without ~, or ./~ for a folder of that name"
        )
    return expanded
