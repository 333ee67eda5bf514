"""Reads files that may vanish, change or fail during a long run.

A failed read is retried for a few seconds. After that its record counts as bad: it is
replaced, counted and logged. For the next minute no other file is retried, since a disk
that lost one file may have lost all, and retrying each would stall the run.

A replacement depends on the state of the disk, not on (seed, step) alone: a run that is
resumed with the file repaired does not repeat those rows. The log states this.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import pathlib
import stat
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from glide_jax.data import schema

_log = logging.getLogger(__name__)
# Delays before retries; 7.6 s in all cover a remount or a moved file (ours).
WAITS_SECS = (0.1, 0.5, 2.0, 5.0)
# Seconds without retries after a file that stayed unreadable (ours).
PAUSE_SECS = 60.0
# Limits on what is read into memory at once. 64 MiB is four times the size of the
# largest JPEG of a camera. Models read about 128 tokens of a caption of 64 KiB.
MAX_IMAGE_BYTES = 64 << 20
MAX_CAPTION_BYTES = 64 << 10
# img2dataset stores EXIF and other metadata beside the caption.
MAX_JSON_BYTES = 1 << 20

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class Stamp(NamedTuple):
    """Identifies a version of a file."""

    size: int
    mtime_ns: int


class _ChangedError(OSError):
    """The file differs from the indexed one."""


class RetryPolicy:
    """The retry policy that the threads of this process share.

    Attributes:
      given_up: unreadable files, which are not retried again.
    """

    def __init__(self) -> None:
        self.given_up: set[pathlib.Path] = set()
        self._paused_until = -math.inf
        self._lock = threading.Lock()

    def waits(self, path: pathlib.Path) -> tuple[float, ...]:
        """Returns the seconds to wait before each retry of a file."""
        is_paused = time.monotonic() < self._paused_until
        return () if is_paused or path in self.given_up else WAITS_SECS

    def give_up(self, path: pathlib.Path, waits: tuple[float, ...]) -> bool:
        """Records an unreadable file; returns whether it was not recorded before."""
        with self._lock:
            if waits:
                self._paused_until = time.monotonic() + PAUSE_SECS
            is_new = path not in self.given_up
            self.given_up.add(path)
        return is_new


_retries = RetryPolicy()


def open_file(path: pathlib.Path) -> tuple[int, Stamp]:
    """Opens a regular file; returns its descriptor, to be closed, and its stamp.

    Raises:
      OSError: it cannot be opened, or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor, Stamp(found.st_size, found.st_mtime_ns)


def read_at(descriptor: int, offset: int, size: int) -> bytes:
    """Reads `size` bytes from `offset`, fewer only at the end of the file."""
    parts = []
    while size > 0:
        # Network disks may return fewer bytes than requested.
        part = os.pread(descriptor, size, offset)
        if not part:
            break
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)


def read_span(
    path: pathlib.Path, offset: int, size: int, stamp: Stamp, key: str
) -> bytes:
    """Reads `size` bytes from `offset` of the file that `stamp` identifies.

    Raises:
      BadRecordError: after all retries the file is missing ("vanished shard"), differs
        ("changed shard") or cannot be read ("unreadable shard").
    """

    def attempt() -> bytes:
        descriptor, found = open_file(path)
        try:
            if found != stamp:
                raise _ChangedError(
                    errno.ESTALE,
                    f"{found.size} bytes, {stamp.size} when it was indexed"
                    if found.size != stamp.size
                    else "written to since it was indexed",
                )
            return read_at(descriptor, offset, size)
        finally:
            os.close(descriptor)

    return _retry(attempt, path, "shard", key)


def read_whole(path: pathlib.Path, limit: int, kind: str, key: str) -> bytes:
    """Reads a whole file of at most `limit` bytes.

    Raises:
      BadRecordError: the file is larger (`kind`), "vanished file" or "unreadable file".
    """

    def attempt() -> bytes:
        return _whole(path, limit, kind, key)

    return _retry(attempt, path, "file", key)


def read_caption(
    path: pathlib.Path, image: pathlib.Path, key: str, limit: int = MAX_CAPTION_BYTES
) -> bytes:
    """Reads a whole caption file of at most `limit` bytes, of the picture `image`.

    Raises:
      BadRecordError: as `read_whole`; "missing caption", without retries, if only the
        picture exists. If both are missing, the disk may be unavailable.
    """

    def attempt() -> bytes:
        try:
            return _whole(path, limit, "huge caption", key)
        except FileNotFoundError:
            # Checks the caption again, since the disk may have returned in between.
            if image.is_file() and not path.exists():
                raise schema.BadRecordError("missing caption", key) from None
            raise

    return _retry(attempt, path, "file", key)


def _whole(path: pathlib.Path, limit: int, kind: str, key: str) -> bytes:
    descriptor, found = open_file(path)
    try:
        if found.size > limit:
            raise schema.BadRecordError(kind, key, f"{found.size} bytes")
        return read_at(descriptor, 0, limit)
    finally:
        os.close(descriptor)


def check_unchanged(path: pathlib.Path, stamp: Stamp, key: str) -> None:
    """Raises BadRecordError unless `stamp` identifies the file, as `read_span`."""
    read_span(path, 0, 0, stamp, key)


def _retry(
    attempt: Callable[[], bytes], path: pathlib.Path, what: str, key: str
) -> bytes:
    """Returns the result of `attempt`, retried; raises as `read_span`."""
    waits = _retries.waits(path)
    remaining = iter(waits)
    while True:
        try:
            content = attempt()
        except OSError as fault:
            last = fault
        else:
            _retries.given_up.discard(path)
            return content
        wait = next(remaining, None)
        if wait is None:
            break
        time.sleep(wait)
    if _retries.give_up(path, waits):
        _log.error(
            "%s cannot be read (%s): its records are replaced, which a run resumed "
            "with the file restored does not repeat",
            path,
            last.strerror,
        )
    kind = f"{_fault_kind(last)} {what}"
    raise schema.BadRecordError(kind, key, last.strerror or "") from last


def _fault_kind(fault: OSError) -> str:
    if isinstance(fault, _ChangedError):
        return "changed"
    return "vanished" if fault.errno in _GONE else "unreadable"
