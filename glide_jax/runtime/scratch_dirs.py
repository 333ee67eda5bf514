"""Scratch folders, which are removed when their block ends.

A killed process cannot remove its own. It therefore holds a file lock in the folder,
which ends with the process; the next scratch folder of the same name removes those that
are not locked.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from glide_jax.runtime import locks

_log = logging.getLogger(__name__)
_LOCK = ".lock"


@contextlib.contextmanager
def made(directory: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
    """Yields a new folder `.NAME.*` in `directory`, removed after the `with` block.

    Folders of the same name that killed processes left are removed first.
    """
    for left in directory.glob(f".{name}.*"):
        _remove_unless_held(left)
    draft = pathlib.Path(tempfile.mkdtemp(dir=directory, prefix=f".{name}."))
    unlocked = draft / f"{_LOCK}.tmp"
    try:
        with unlocked.open("wb") as file:
            # On a disk without locks no other process can lock it either.
            with contextlib.suppress(OSError):
                locks.try_lock(file)
            # Other processes see the file only when it is locked.
            unlocked.rename(draft / _LOCK)
            yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _remove_unless_held(draft: pathlib.Path) -> None:
    # Without the file, a process is about to lock it. If locking fails, a process holds
    # the lock or the disk has no locks.
    with contextlib.suppress(OSError), (draft / _LOCK).open("r+b") as file:
        if locks.try_lock(file):
            _log.warning("removing %s, left by a killed process", draft)
            shutil.rmtree(draft)
