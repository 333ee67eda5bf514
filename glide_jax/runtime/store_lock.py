"""One writer at a time for a place in an object store.

Every writer creates an object of its own, `.glide_jax/writer/00000007.json`, with the
number after the newest one; a store lets one process create it. The writer with the
newest number owns the place. It writes its object again every few seconds as a
heartbeat, and marks it when it ends.

A writer that was suspended for longer than STALE_SECS may be replaced. It finds the
newer number before it next writes a manifest, and ends. Files that it was uploading at
that moment may still arrive: a manifest never lists them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import pathlib
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from glide_jax.errors import UserError
from glide_jax.runtime import holders, locks, object_store

_log = logging.getLogger(__name__)
FOLDER = ".glide_jax"
_WRITERS = f"{FOLDER}/writer"
_CLOCK = f"{FOLDER}/clock"
_POLL_SECS = 2.0


class Writer(NamedTuple):
    """The newest writer of a place; `number` is 0 if there was none.

    Attributes:
      number: of the writer.
      holder: the process; None if it has ended.
      beat: when it wrote last, by the clock of the store.
      mirror: the local folder from which it writes.
    """

    number: int
    holder: holders.Holder | None
    beat: float
    mirror: str = ""


class StoreLock:
    """This process's right to write to a place in a store.

    Attributes:
      number: of this writer; 0 before `acquire`.
    """

    def __init__(self, store: object_store.ObjectStore, folder: pathlib.Path) -> None:
        """Creates a lock without acquiring it.

        Args:
          store: the place.
          folder: the local folder, or file, from which it is written.
        """
        self._store, self._folder = store, folder
        self.number = 0
        self._record = b""
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._lost_to = ""

    def acquire(
        self, wait_secs: float = 0.0, check_stop: Callable[[], None] = lambda: None
    ) -> None:
        """Becomes the writer, after one that has ended or is gone.

        Args:
          wait_secs: how long another writer may take to end. One on another host may
            be gone, so it has at least STALE_SECS.
          check_stop: called while waiting; may raise to end the wait.

        Raises:
          UserError: another process is the writer, or the store cannot be used.
        """
        begin, is_logged = time.monotonic(), False
        while not self._attempt():
            held = newest(self._store).holder
            limit = wait_secs
            if held is not None and not held.is_here():
                limit = max(limit, locks.STALE_SECS + locks.BEAT_SECS)
            if held is not None and time.monotonic() - begin >= limit:
                raise UserError(
                    f"{self._store.name}={self._store.url} is being written by {held}, "
                    f"which did not end within {limit:g} s; end it, or name another "
                    "place"
                )
            if held is not None and not is_logged:
                _log.warning(
                    "%s is being written by %s; waiting up to %g s for it to end",
                    *(self._store.url, held, limit),
                )
                is_logged = True
            check_stop()
            time.sleep(_POLL_SECS)
        self._thread.start()

    def check(self, *, now: bool = False) -> None:
        """Raises UserError if another process has become the writer.

        Args:
          now: ask the store, in place of the answer of the last heartbeat.
        """
        if now:
            self._look()
        if self._lost_to:
            raise UserError(
                f"{self._store.name}={self._store.url} was taken over by "
                f"{self._lost_to} while this process sent no heartbeat; this process "
                "ends and writes nothing more"
            )

    def release(self) -> None:
        """Marks that this writer has ended."""
        if not self.number:
            return
        self._is_over.set()
        self._thread.join()
        if not self._lost_to:
            self._store.write(_object(self.number), b"{}")

    def _attempt(self) -> bool:
        last = newest(self._store)
        if last.holder is not None and not self._is_gone(last):
            return False
        own = json.loads(holders.describe(self._anchor(), False).to_json())
        self._record = json.dumps({**own, "mirror": str(self._folder)}).encode()
        number = last.number + 1
        is_new = self._store.write(_object(number), self._record, must_be_new=True)
        # If the connection was cut after the object was made, the repeated request
        # finds it.
        if not is_new and self._read(number) != self._record:
            return False
        if last.holder is not None:
            _log.warning(
                "%s: taken over from %s, which is gone", self._store.url, last.holder
            )
        self.number = number
        with contextlib.suppress(object_store.StoreError):  # they only take room
            self._store.delete(
                _object(old) for old in range(max(1, number - 3), number)
            )
        return True

    def _anchor(self) -> pathlib.Path:
        return self._folder if self._folder.is_dir() else self._folder.parent

    def _read(self, number: int) -> bytes:
        try:
            return self._store.read(_object(number))
        except object_store.MissingError:
            return b""

    def _is_gone(self, last: Writer) -> bool:
        assert last.holder is not None
        if last.holder.is_visible():
            return not last.holder.is_running()
        self._store.write(_CLOCK, b"")
        now = self._store.list(_CLOCK)[_CLOCK].modified
        return now - last.beat > locks.STALE_SECS

    def _beat(self) -> None:
        while not self._is_over.wait(locks.BEAT_SECS):
            try:
                self._look()
                if not self._lost_to:
                    self._store.write(_object(self.number), self._record)
            except UserError as error:
                # The store is unavailable: other hosts may take the place over.
                _log.warning("the heartbeat of %s failed: %s", self._store.url, error)

    def _look(self) -> None:
        last = newest(self._store)
        if last.number > self.number:
            self._lost_to = str(last.holder or "a process that has ended since")


def newest(store: object_store.ObjectStore) -> Writer:
    """The newest writer of a place."""
    found = store.list(_WRITERS)
    if not found:
        return Writer(0, None, 0.0)
    name = max(found)
    number = int(pathlib.PurePosixPath(name).stem)
    try:
        record = json.loads(store.read(name))
    except object_store.MissingError:  # a newer one has just replaced it
        return newest(store)
    mirror = record.pop("mirror", "")
    holder = holders.Holder(**record) if record else None
    return Writer(number, holder, found[name].modified, mirror)


def _object(number: int) -> str:
    return f"{_WRITERS}/{number:08d}.json"
