"""Lists the files of a folder of pictures, and counts skipped entries by reason.

Symbolic links are followed. Each real folder is listed once, under its own name if it
is inside the root, so loops of links end. Hidden files, AppleDouble files (`._*`) and
`__MACOSX` folders, which macOS and archivers create, are skipped.
"""

from __future__ import annotations

import collections
import errno
import os
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from glide_jax.data import picture_files
from glide_jax.errors import UserError
from glide_jax.runtime import wording

HIDDEN = "hidden file"
APPLE_DOUBLE = "AppleDouble file"
_BROKEN_LINK = "broken link"
_LISTED_ALREADY = "link to a folder that is listed already"
_NOT_REGULAR = "not a regular file"
_UNREADABLE = "folder that cannot be read"


class Listing(NamedTuple):
    """The files under a folder.

    Attributes:
      pictures: paths of files with a suffix of `picture_files.SUFFIXES` in any case, in
        natural order of their path below the folder.
      others: all other files, in the same order.
      skipped: the number of entries that are in neither list, by reason. A hidden
        folder counts once.
    """

    pictures: list[pathlib.Path]
    others: list[pathlib.Path]
    skipped: dict[str, int]


def list_files(root: pathlib.Path) -> Listing:
    """Lists the files under `root` at any depth, without opening any.

    Raises:
      UserError: `root` is not a folder, or cannot be read.
    """
    names, skipped = list_names(root)
    names.sort(key=wording.natural_key)
    pictures = [root / name for name in names if is_picture(name)]
    others = [root / name for name in names if not is_picture(name)]
    return Listing(pictures, others, dict(skipped))


def is_picture(name: str) -> bool:
    """Whether a file name has the suffix of a picture, in any case."""
    return os.path.splitext(name)[1].lower() in picture_files.SUFFIXES


def unknown_suffix(name: str) -> str:
    """Returns the reason to skip a file of another kind, e.g. "unknown suffix .tif"."""
    suffix = os.path.splitext(name)[1].lower()
    # A number or a long word is a part of the name, which few files share.
    is_shared = len(suffix) <= 6 and suffix[1:].isalnum() and not suffix[1:].isdigit()
    return f"unknown suffix {suffix}" if is_shared else "unknown suffix"


def reason_to_skip(name: str) -> str | None:
    """Returns the reason to skip a file or folder of this base name, or None."""
    if name.startswith("._") or name == "__MACOSX":
        return APPLE_DOUBLE
    return HIDDEN if name.startswith(".") and name not in (".", "..") else None


def describe(skipped: Mapping[str, int]) -> str:
    """Formats e.g. "skipped: broken link (1), unknown suffix .tif (3)", or ""."""
    reasons = [f"{reason} ({n})" for reason, n in sorted(skipped.items()) if n]
    return f"skipped: {', '.join(reasons)}" if reasons else ""


def list_names(root: pathlib.Path) -> tuple[list[str], collections.Counter[str]]:
    """Lists the paths relative to `root`, with "/", unordered, and the skipped entries.

    Raises:
      UserError: `root` is not a folder, or cannot be read.
    """
    walk = _Walk(root)
    try:
        walk.enter("")
        while walk.folders or walk.links:
            # Links are entered last, so that a folder is listed under its own name.
            prefix = walk.folders.pop() if walk.folders else walk.links.pop()
            try:
                walk.enter(prefix)
            except PermissionError:
                walk.skipped[_UNREADABLE] += 1
            if not walk.folders:
                walk.links.sort(key=wording.natural_key, reverse=True)
    except OSError as fault:
        # A temporary error of the disk must not make the folder smaller.
        raise UserError(
            f"{root} cannot be listed ({fault.filename}: {fault.strerror}); give a"
            " folder of pictures"
        ) from fault
    return walk.names, walk.skipped


class _Walk:
    """The state of one walk: the listed names, and the folders that remain."""

    def __init__(self, root: pathlib.Path) -> None:
        self._root = os.fspath(root)
        self._seen: set[tuple[int, int]] = set()
        self.names: list[str] = []
        self.folders: list[str] = []
        self.links: list[str] = []
        self.skipped: collections.Counter[str] = collections.Counter()

    def enter(self, prefix: str) -> None:
        """Lists one folder, "" or "a/b/", and collects its folders."""
        path = os.path.join(self._root, prefix)
        status = os.stat(path)
        identity = (status.st_dev, status.st_ino)
        if identity in self._seen:
            self.skipped[_LISTED_ALREADY] += 1
            return
        with os.scandir(path) as entries:
            self._seen.add(identity)
            for entry in entries:
                self._add(entry, prefix)

    def _add(self, entry: os.DirEntry[str], prefix: str) -> None:
        reason = reason_to_skip(entry.name)
        if reason is not None:
            self.skipped[reason] += 1
            return
        try:
            if entry.is_file():
                self.names.append(prefix + entry.name)
            elif entry.is_dir():
                to_enter = self.links if entry.is_symlink() else self.folders
                to_enter.append(f"{prefix}{entry.name}/")
            else:
                is_link = entry.is_symlink()
                self.skipped[_BROKEN_LINK if is_link else _NOT_REGULAR] += 1
        except OSError as fault:
            # A link to itself, or into a folder without permission.
            if fault.errno not in (errno.ELOOP, errno.EACCES):
                raise
            self.skipped[_BROKEN_LINK] += 1
