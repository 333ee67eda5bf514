"""What a mirror knows of its files and objects, kept between commands."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from glide_jax.runtime import files, mirror_rules

# (bytes, nanoseconds of the last change)
Sign = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of a file and its object, since they were last equal.

    Attributes:
      version: of the object.
      sign: of the file; None: not fetched.
    """

    version: str
    sign: Sign | None


def sign_of(path: pathlib.Path) -> Sign:
    """The sign of a file.

    Raises:
      FileNotFoundError: there is none.
    """
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def scan(folder: pathlib.Path) -> dict[str, Sign]:
    """The complete files, by their names below the folder."""
    if folder.is_file():
        return {"": sign_of(folder)}
    found: dict[str, Sign] = {}
    for parent, folders, names in os.walk(folder):
        under = os.path.relpath(parent, folder)
        start = "" if under == "." else f"{under}/"
        folders[:] = [
            one for one in folders if not mirror_rules.HIDDEN.search(start + one)
        ]
        for name in names:
            path = f"{start}{name}"
            if not mirror_rules.HIDDEN.search(path):
                with contextlib.suppress(FileNotFoundError):
                    found[path] = sign_of(pathlib.Path(parent, name))
    return found


def load(path: pathlib.Path, url: str) -> tuple[int, dict[str, Known]]:
    """The number of the last writer on this machine, and its files by name.

    Without a record of this URL they are 0 and empty.
    """
    if not path.is_file():
        return 0, {}
    state = files.read_json(path)
    if state["url"] != url:
        return 0, {}
    known = {
        name: Known(version, tuple(sign) if sign else None)
        for name, (version, sign) in state["files"].items()
    }
    return state["writer"], known


def save(path: pathlib.Path, url: str, number: int, known: Mapping[str, Known]) -> None:
    """Writes what `load` reads."""
    state: dict[str, Any] = {
        "url": url,
        "writer": number,
        "files": {name: [one.version, one.sign] for name, one in sorted(known.items())},
    }
    files.write_text(path, json.dumps(state), is_shared=True)
