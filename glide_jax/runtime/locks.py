"""One writer at a time: file locks, and a folder lock that is safe against kill -9.

`try_lock` is the kernel's lock of an open file (flock). It ends with the process, and
covers all hosts if the file system supports it (local disks, NFSv4, Lustre with
`-o flock`); otherwise it covers one host only (object stores mounted by FUSE) or fails.

`FolderLock` adds a record, `writer.json`, that names the holder and that the holder
touches every few seconds as a heartbeat. Its guarantees:

- On the host of the holder a second writer waits and is refused. A holder that was
  killed is replaced at once. A stopped one (SIGSTOP) counts as alive.
- On another host of a shared disk a second writer waits and is refused as well. A
  holder that was killed is replaced when its record is `stale_secs` old.
- The same holds for an object store, but two writers that start within a second may
  both begin. One of them finds the other's record at its next heartbeat, and ends.

The age of a record is measured by the clock of the disk. An object store without one
uses the clocks of its hosts, which must agree within a minute.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pathlib
import secrets
import threading
import time
from collections.abc import Callable
from typing import IO

from glide_jax.errors import UserError
from glide_jax.runtime import holders

_log = logging.getLogger(__name__)
LOCK, RECORD = "writer.lock", "writer.json"
BEAT_SECS = 15.0  # between two heartbeats
# A holder without a heartbeat for this long is gone. NFS shows changes of other hosts
# up to 60 s late.
STALE_SECS = 120.0
_POLL_SECS = 0.2


def try_lock(file: IO, *, is_shared: bool = False) -> bool:
    """Acquires the kernel's lock of an open file; False if another open file has it.

    A child process that inherits the open file holds the lock too.

    Raises:
      OSError: the file system has no locks.
    """
    # flock and not lockf: a lockf lock ends when any descriptor of the file is closed.
    kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_current(path: pathlib.Path, file: IO) -> bool:
    """Whether the open file is still the one at this path.

    If a holder removes its lock file, processes that opened it earlier have a different
    file than later ones.
    """
    return _identity(path) == _identity(file.fileno())


class FolderLock(contextlib.AbstractContextManager):
    """This process's right to write to a folder, while the `with` block runs."""

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        flag: str,
        wait_secs: float = 0.0,
        check_stop: Callable[[], None] = lambda: None,
        beat_secs: float = BEAT_SECS,
        stale_secs: float = STALE_SECS,
    ) -> None:
        """Creates a lock without acquiring it.

        Args:
          folder: created if missing, and removed again if it stays empty.
          flag: name of the folder in messages, e.g. "--workdir".
          wait_secs: how long a holder may take to end. For one on another host, which
            may be gone, at least until its record is stale.
          check_stop: called while waiting; may raise to end the wait.
          beat_secs: seconds between two heartbeats.
          stale_secs: a holder without a heartbeat for this long is gone.
        """
        self._folder, self._name = folder, f"{flag}={folder}"
        self._wait_secs, self._check_stop = wait_secs, check_stop
        self._beat_secs, self._stale_secs = beat_secs, stale_secs
        # After this long without a heartbeat of its own, it reads the record again.
        self._lease_secs = 2 * beat_secs
        self._record = folder / RECORD
        self._is_made_here = False
        self._file: IO | None = None
        self._has_kernel_lock = False
        self._own: holders.Holder | None = None
        self._tried: holders.Holder | None = None  # as last written to the record
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._is_over = threading.Event()
        self._renewed = 0.0
        self._lost_to = ""
        self._seen: tuple[str, float] = ("", 0.0)  # the record last seen, since when

    def __enter__(self) -> FolderLock:
        """Acquires the lock, from a holder that is gone or once it has ended.

        Raises:
          UserError: another process holds it.
          OSError: the folder cannot be written.
        """
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._release)
            self._take()
            on_failure.pop_all()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._release()

    def check(self) -> None:
        """Raises UserError if another process has taken the lock over.

        That happens to a process that was suspended, or whose disk was unavailable, for
        longer than `stale_secs`. Must be called before every write.
        """
        if not self._lost_to and _now() - self._renewed > self._lease_secs:
            self._renew()
        if self._lost_to:
            raise UserError(
                f"{self._name} was taken over by {self._lost_to} while this process "
                "sent no heartbeat; this process ends and writes nothing more"
            )

    def _take(self) -> None:
        begin, is_logged = time.monotonic(), False
        while (held := self._attempt_again()) is not None:
            limit = self._wait_secs
            if not held.is_here():  # it may be gone, and its record not stale yet
                limit = max(limit, self._stale_secs + self._beat_secs)
            if time.monotonic() - begin >= limit:
                raise UserError(
                    f"{self._name} is being written by {held}, which did not end "
                    f"within {limit:g} s; end it, or name another folder"
                )
            if not is_logged:
                _log.warning(
                    "%s is being written by %s; waiting up to %g s for it to end",
                    *(self._name, held, limit),
                )
                is_logged = True
            self._check_stop()
            time.sleep(_POLL_SECS)

    def _attempt_again(self) -> holders.Holder | None:
        """Acquires the lock and returns None, or returns the holder."""
        self._close()
        self._is_made_here |= not self._folder.exists()
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            return self._attempt()
        except FileNotFoundError:  # a holder that made the folder has removed it
            return holders.UNKNOWN

    def _attempt(self) -> holders.Holder | None:
        has_kernel_lock = self._lock_file()
        holder = holders.read(self._record)
        if holder is not None and holder == self._tried:
            # A faster process took it away for a moment; see `_set_aside`.
            self._own, self._renewed = holder, _now()
            return None
        if holder is None and has_kernel_lock is not False and self._publish():
            return None
        if (
            holder is not None
            and self._is_gone(holder, has_kernel_lock)
            and self._set_aside(holder)
            and self._publish()
        ):
            _log.warning("%s: taken over from %s, which is gone", self._name, holder)
            return None
        return holder or holders.read(self._record) or holders.UNKNOWN

    def _lock_file(self) -> bool | None:
        """Whether this process has the kernel's lock; None if unsupported."""
        path = self._folder / LOCK
        self._file = path.open("a")
        try:
            has_kernel_lock = try_lock(self._file)
        except OSError:
            return None
        # A holder that ended has removed the file that was opened here.
        self._has_kernel_lock = has_kernel_lock and is_current(path, self._file)
        return self._has_kernel_lock

    def _is_gone(self, holder: holders.Holder, has_kernel_lock: bool | None) -> bool:
        """Whether the holder has ended, as far as this process can tell."""
        if holder.is_visible():
            return not holder.is_running()
        is_on_device = holder.device == self._folder.stat().st_dev
        if holder.is_here() and is_on_device and holder.has_kernel_lock:
            return has_kernel_lock is True
        return self._is_stale(holder)

    def _is_stale(self, holder: holders.Holder) -> bool:
        """Whether the record is stale by the disk's clock, or was unchanged so long."""
        path = self._folder / LOCK
        try:
            os.utime(path)
        except FileNotFoundError:  # the holder has ended just now
            raise
        except OSError:  # times cannot be set, so the record is watched for changes
            pass
        now, touched = path.stat().st_mtime, self._record.stat().st_mtime
        sign = f"{holder.token} {touched}"
        if sign != self._seen[0]:
            self._seen = (sign, time.monotonic())
        watched = time.monotonic() - self._seen[1]
        return max(now - touched, watched) > self._stale_secs

    def _set_aside(self, holder: holders.Holder) -> bool:
        """Removes the record of a holder that is gone; False if another replaced it."""
        aside = self._record.with_name(f"{RECORD}.{secrets.token_hex(8)}")
        try:
            self._record.rename(aside)
        except FileNotFoundError:
            return False
        is_same = holders.read(aside) == holder
        if not is_same:  # another process was faster, and has the lock
            _link(aside, self._record)
        aside.unlink()
        return is_same

    def _publish(self) -> bool:
        """Writes the record of this process, unless there is one."""
        self._tried = own = holders.describe(self._folder, self._has_kernel_lock)
        _create(self._record, own)
        # If an object store reports success to two writers, the last one has the lock.
        if holders.read(self._record) != own:
            return False
        self._own, self._renewed = own, _now()
        return True

    def _beat(self) -> None:
        while not self._is_over.wait(self._beat_secs):
            self._renew()

    def _renew(self) -> None:
        """Updates the heartbeat, if this process still has the lock."""
        own = self._own
        assert own is not None  # the lock is acquired
        try:
            holder = holders.read(self._record)
            if holder is None:  # somebody removed it, and did not take the lock
                _create(self._record, own)
            elif holder is holders.UNKNOWN:  # somebody or a full disk damaged it
                self._record.write_text(own.to_json())
            elif holder != own:
                self._lost_to = str(holder)
                return
            try:
                os.utime(self._record)
            except OSError:  # some object stores set no times
                self._record.write_text(own.to_json())
            self._renewed = _now()
        except OSError as error:
            # The disk is unavailable or full: other hosts may take the lock over.
            _log.debug("the heartbeat of %s failed: %s", self._name, error)

    def _release(self) -> None:
        """Removes the files of the lock, so that the folder is free."""
        with contextlib.suppress(OSError):
            holder = holders.read(self._record)
            if holder is not None and holder == self._own:
                self._record.unlink()
                holder = None
            if holder is None and (self._own or self._has_kernel_lock):
                (self._folder / LOCK).unlink(missing_ok=True)
            if self._is_made_here:
                self._folder.rmdir()
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._has_kernel_lock = None, False


def _create(record: pathlib.Path, own: holders.Holder) -> None:
    """Writes the record unless one exists; atomically if the file system can."""
    draft = record.with_name(f"{record.name}.{own.token}")
    try:
        draft.write_text(own.to_json())
        _link(draft, record)
    finally:
        draft.unlink(missing_ok=True)


def _link(file: pathlib.Path, name: pathlib.Path) -> None:
    """Hard-links the file to a second name, unless that exists."""
    try:
        os.link(file, name)  # atomic, on NFS as well
    except FileExistsError:
        pass
    except OSError:  # no links, as in object stores
        with contextlib.suppress(FileExistsError), name.open("x") as copy:
            copy.write(file.read_text())


def _identity(file: pathlib.Path | int) -> tuple[int, int]:
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return (0, 0)
    return found.st_dev, found.st_ino


def _now() -> float:
    """A clock in seconds that includes the time while the machine is suspended."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)
