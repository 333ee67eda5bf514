"""The state of a run of a sweep, which consists of these files alone.

    ROOT/plan.json
    ROOT/runs/ID/          output of the run; result.json when it is finished
    ROOT/logs/ID.log       what the run printed, in all of its attempts
    ROOT/state/ID.json     its attempts: host, times, and exit codes
    ROOT/state/ID.lock     locked while the run is running

The run's own process holds the lock, too: if its parent is killed, the run still counts
as running. The lock ends with the last process that holds it, so ROOT must be on a disk
with file locks (flock).
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import signal
import socket
import time
from collections.abc import Iterator
from typing import IO, NamedTuple

from glide_jax.errors import UserError
from glide_jax.runtime import files, json_fields, lifecycle, locks

WAITING, RUNNING, CUT_OFF = "waiting", "running", "cut off"
STOPPED, FINISHED = "stopped", "finished"


class Attempt(NamedTuple):
    """One attempt of a run; without a code it is running, or was interrupted."""

    host: str
    started: float  # seconds since 1970
    ended: float | None = None
    code: int | None = None


TAIL_BYTES = 8192
_EXIT_LINE = re.compile(r"^\S+Z exit code \d+$")
_NUMBER, _NONE = (int, float), type(None)
_ATTEMPT_KINDS = {
    "host": (str,),
    "started": _NUMBER,
    "ended": (*_NUMBER, _NONE),
    "code": (int, _NONE),
}


class RunRecord:
    """The files of one run of a sweep.

    Attributes:
      folder: Output of the run.
      log: What the run printed.
      result: Its result.json.
    """

    def __init__(self, root: pathlib.Path, run_id: str):
        self.folder = root / "runs" / run_id
        self.log = root / "logs" / f"{run_id}.log"
        self.result = self.folder / "result.json"
        self._state = root / "state" / f"{run_id}.json"
        self._lock = root / "state" / f"{run_id}.lock"

    @property
    def is_finished(self) -> bool:
        """Whether there is a result, which a run writes last."""
        return self.result.is_file()

    @property
    def has_failed(self) -> bool:
        """Whether the last attempt ended with a code that is not retryable.

        An attempt that succeeded without a result counts, too.
        """
        attempts = self.attempts()
        code = attempts[-1].code if attempts else None
        return (
            not self.is_finished
            and code is not None
            and not lifecycle.is_retryable(code)
        )

    def state(self) -> str:
        """Returns one of the states above, or "failed CODE"."""
        if self.is_finished:
            return FINISHED
        if self.is_locked():
            return RUNNING
        attempts = self.attempts()
        if not attempts:
            return WAITING
        code = attempts[-1].code
        if code is None:
            return CUT_OFF
        return STOPPED if lifecycle.is_retryable(code) else f"failed {code}"

    def attempts(self) -> list[Attempt]:
        """Returns all attempts, oldest first.

        Raises:
          UserError: The file is not a list of attempts.
        """
        if not self._state.exists():
            return []
        try:
            items = json.loads(self._state.read_text())
            return [Attempt(**json_fields.check(i, _ATTEMPT_KINDS)) for i in items]
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{self._state} is not a list of attempts ({error}); remove it, so "
                "that the run continues from its own files"
            ) from error

    def reason(self) -> str:
        """The last line of the last attempt, if it has ended without a result."""
        attempts = self.attempts()
        is_ended = bool(attempts) and attempts[-1].code is not None
        if self.is_finished or not is_ended or not self.log.is_file():
            return ""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        # run_supervisor appends "TIME exit code N" to what the program printed.
        printed = [
            line.strip()
            for line in lines
            if line.strip() and not _EXIT_LINE.search(line)
        ]
        return printed[-1] if printed else ""

    def begin(self) -> None:
        """Records the start of an attempt, and the end of an interrupted one."""
        before = self.attempts()
        if before and before[-1].ended is None:
            before[-1] = before[-1]._replace(ended=self._last_write(before[-1]))
        self._write([*before, Attempt(socket.gethostname(), time.time())])

    def end(self, code: int) -> None:
        """Records the end of the attempt."""
        *before, last = self.attempts()
        self._write([*before, last._replace(ended=time.time(), code=code)])

    def is_locked(self) -> bool:
        """Returns whether a process runs it now."""
        if not self._lock.exists():
            return False
        with self._lock.open() as file:
            return not _take(file, is_shared=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[IO | None]:
        """Yields the open lock for the run's process; None if it is taken."""
        with self._lock.open("a") as file:
            yield file if _take(file) else None

    def seconds(self) -> float:
        """Returns the time spent on all attempts, in seconds.

        A running attempt counts until now, an interrupted one until its last write to
        the log or the result.
        """
        attempts = self.attempts()
        if attempts and attempts[-1].ended is None:
            last = attempts[-1]
            end = time.time() if self.is_locked() else self._last_write(last)
            attempts[-1] = last._replace(ended=end)
        return sum((a.ended - a.started for a in attempts if a.ended is not None), 0.0)

    def _last_write(self, attempt: Attempt) -> float:
        written = [path for path in (self.log, self.result) if path.is_file()]
        return max([attempt.started, *(path.stat().st_mtime for path in written)])

    def _write(self, attempts: list[Attempt]) -> None:
        files.write_json(self._state, [attempt._asdict() for attempt in attempts])


def exit_code(returncode: int) -> int:
    """Returns the code as a shell states it: 128 + N after signal N."""
    return returncode if returncode >= 0 else 128 + abs(signal.Signals(-returncode))


def _take(file: IO, *, is_shared: bool = False) -> bool:
    try:
        return locks.try_lock(file, is_shared=is_shared)
    except OSError as error:
        raise UserError(
            f"{file.name} cannot be locked ({error.strerror}); name a --root on a disk "
            "with file locks (flock)"
        ) from error
