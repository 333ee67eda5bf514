"""Folders for work that counts when it is whole, removed whatever ends the work.

A process that is killed cannot remove its own. So it holds a lock in it while it is
alive, which ends with the process; whoever works under the same name next removes those
that nobody holds.
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
    """A new folder `.NAME.*` in `directory`, gone after the `with` block.

    Those of that name that killed processes have left are removed first.
    """
    for left in directory.glob(f".{name}.*"):
        _remove_unless_held(left)
    draft = pathlib.Path(tempfile.mkdtemp(dir=directory, prefix=f".{name}."))
    unlocked = draft / f"{_LOCK}.tmp"
    try:
        with unlocked.open("wb") as file:
            # A disk without locks lets nobody else take it either.
            with contextlib.suppress(OSError):
                locks.try_lock(file)
            # Others see it from here on, when it is held.
            unlocked.rename(draft / _LOCK)
            yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _remove_unless_held(draft: pathlib.Path) -> None:
    # Not there: another process is about to hold it. No lock to be had: one does, or
    # nobody can tell.
    with contextlib.suppress(OSError), (draft / _LOCK).open("r+b") as file:
        if locks.try_lock(file):
            _log.warning("removing %s, which a killed process has left", draft)
            shutil.rmtree(draft)
