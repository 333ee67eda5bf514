"""Bytes of files that may vanish, change or fail in the middle of a long run.

What the disk does is no property of a record, so a read that fails is tried again for a
few seconds. After that its record is bad like any other: replaced, counted and named.
No other file is waited for during the next minute: a disk that lost one may have lost
them all, and a run that waits for each in turn would stand still.

The stream then is that of the data as they now lie, not of (seed, step) alone: a run
that is resumed with the file mended will not repeat those rows, and the log says so.
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
# Rides out a remount or a file that is moved and put back: 7.6 s in all (ours).
WAITS_SECS = (0.1, 0.5, 2.0, 5.0)
# After a wait in vain, all files are read at once or not at all for so long (ours).
REST_SECS = 60.0
# Limits on what is read into memory at once. No photograph of the web is larger: 64 MiB
# is four times what a full camera JPEG takes. A caption of 64 KiB is a small book; the
# model sees some 128 tokens of it.
MAX_IMAGE_BYTES = 64 << 20
MAX_CAPTION_BYTES = 64 << 10
# img2dataset writes EXIF and the like beside the caption.
MAX_JSON_BYTES = 1 << 20

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class Stamp(NamedTuple):
    """Tells one content of a file from another."""

    size: int
    mtime_ns: int


class _ChangedError(OSError):
    """The file is not the one that was indexed."""


class Patience:
    """Which files the threads of this process still wait for.

    Attributes:
      given_up: files that could not be read; they are not waited for again.
    """

    def __init__(self) -> None:
        self.given_up: set[pathlib.Path] = set()
        self._rests_until = -math.inf
        self._lock = threading.Lock()

    def waits(self, path: pathlib.Path) -> tuple[float, ...]:
        """Seconds to wait before each other try to read a file."""
        is_resting = time.monotonic() < self._rests_until
        return () if is_resting or path in self.given_up else WAITS_SECS

    def give_up(self, path: pathlib.Path, waits: tuple[float, ...]) -> bool:
        """Notes a file that was waited for in vain; whether it was not known to be."""
        with self._lock:
            if waits:
                self._rests_until = time.monotonic() + REST_SECS
            is_new = path not in self.given_up
            self.given_up.add(path)
        return is_new


_patience = Patience()


def open_file(path: pathlib.Path) -> tuple[int, Stamp]:
    """A descriptor of a regular file, the caller's to close, and its stamp.

    Raises:
      OSError: it cannot be opened, or is a pipe or a device, which might never end.
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
    """Up to `size` bytes from `offset`; fewer only where the file ends."""
    parts = []
    while size > 0:
        # Network disks give less than was asked for.
        part = os.pread(descriptor, size, offset)
        if not part:
            break
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)


def read_span(
    path: pathlib.Path, offset: int, size: int, stamp: Stamp, key: str
) -> bytes:
    """These bytes of a file that is still the one of `stamp`.

    Raises:
      BadRecordError: the file is gone ("vanished shard"), is another ("changed shard")
        or cannot be read ("unreadable shard"), and stayed so while we waited.
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

    return _persist(attempt, path, "shard", key)


def read_whole(path: pathlib.Path, limit: int, kind: str, key: str) -> bytes:
    """A whole file of at most `limit` bytes.

    Raises:
      BadRecordError: larger (of this `kind`), or "vanished file" or "unreadable file".
    """

    def attempt() -> bytes:
        return _whole(path, limit, kind, key)

    return _persist(attempt, path, "file", key)


def read_caption(
    path: pathlib.Path, image: pathlib.Path, key: str, limit: int = MAX_CAPTION_BYTES
) -> bytes:
    """A whole caption file of at most `limit` bytes, of the picture `image`.

    Raises:
      BadRecordError: as `read_whole`; "missing caption", at once, where the picture is
        there without it. Where both are gone the disk may be away, which is waited for.
    """

    def attempt() -> bytes:
        try:
            return _whole(path, limit, "huge caption", key)
        except FileNotFoundError:
            # The caption again at last: the disk may have come back in between.
            if image.is_file() and not path.exists():
                raise schema.BadRecordError("missing caption", key) from None
            raise

    return _persist(attempt, path, "file", key)


def _whole(path: pathlib.Path, limit: int, kind: str, key: str) -> bytes:
    descriptor, found = open_file(path)
    try:
        if found.size > limit:
            raise schema.BadRecordError(kind, key, f"{found.size} bytes")
        return read_at(descriptor, 0, limit)
    finally:
        os.close(descriptor)


def check_unchanged(path: pathlib.Path, stamp: Stamp, key: str) -> None:
    """Raises BadRecordError unless the file is the one of `stamp`, as `read_span`."""
    read_span(path, 0, 0, stamp, key)


def _persist(
    attempt: Callable[[], bytes], path: pathlib.Path, what: str, key: str
) -> bytes:
    """What attempt() gives in the end; see `read_span`."""
    waits = _patience.waits(path)
    left = iter(waits)
    while True:
        try:
            content = attempt()
        except OSError as fault:
            last = fault
        else:
            _patience.given_up.discard(path)
            return content
        wait = next(left, None)
        if wait is None:
            break
        time.sleep(wait)
    if _patience.give_up(path, waits):
        _log.error(
            "%s cannot be read (%s): its records are replaced from here on, which a "
            "run resumed with it in place would not repeat",
            path,
            last.strerror,
        )
    raise schema.BadRecordError(f"{_fate(last)} {what}", key, last.strerror) from last


def _fate(fault: OSError) -> str:
    if isinstance(fault, _ChangedError):
        return "changed"
    return "vanished" if fault.errno in _GONE else "unreadable"
