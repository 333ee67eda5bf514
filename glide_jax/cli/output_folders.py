"""Creates and locks the folder that a command writes to, before its work begins."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

from glide_jax.errors import UserError
from glide_jax.runtime import locks


@contextlib.contextmanager
def made_folder(path: str) -> Iterator[pathlib.Path]:
    """Yields the folder of --output, created if missing; removed if it stays empty.

    Raises:
      UserError: the folder cannot be created or written.
    """
    folder = pathlib.Path(path)
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Permissions are not enough: the disk may be read-only.
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UserError(
                f"--output={path} cannot be written ({error.strerror}); name a folder "
                "that you may write"
            ) from error
        yield folder
    finally:
        # Deepest first; a folder that is not empty stays, with its parents.
        with contextlib.suppress(OSError):
            for place in missing:
                place.rmdir()


@contextlib.contextmanager
def alone(target: pathlib.Path) -> Iterator[None]:
    """Locks a folder or file against other programs during the block.

    Raises:
      UserError: another program writes to it.
    """
    is_folder = target.is_dir()
    lock = target / ".lock" if is_folder else target.with_name(f".{target.name}.lock")
    with lock.open("a") as file:
        is_free = True
        with contextlib.suppress(OSError):  # a disk without locks
            is_free = locks.try_lock(file) and locks.is_current(lock, file)
        if not is_free:
            raise UserError(
                f"another program writes to --output={target}; wait for it, or name "
                "another"
            )
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
