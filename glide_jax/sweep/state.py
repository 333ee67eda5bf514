"""How far is a run of a sweep? All of it lies on the disk, and nothing else counts.

    ROOT/plan.json
    ROOT/runs/ID/          what the run itself writes; result.json when it is finished
    ROOT/logs/ID.log       what it said, all starts after each other
    ROOT/state/ID.json     its attempts: where, when, and the exit codes that ended them
    ROOT/state/ID.lock     locked while somebody runs it

The lock is held by the run's own process too: if whoever started it is killed, it is
still seen to run. It ends with the last process that holds it. So ROOT has to be on a
disk with file locks (flock).
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
AGAIN, FINISHED = "again", "finished"


class Attempt(NamedTuple):
    """One start of a run; without a code it is going on, or was cut off."""

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
    """The files of one run of a sweep."""

    def __init__(self, root: pathlib.Path, run_id: str):
        self.folder = root / "runs" / run_id
        self.log = root / "logs" / f"{run_id}.log"
        self.result = self.folder / "result.json"
        self._state = root / "state" / f"{run_id}.json"
        self._lock = root / "state" / f"{run_id}.lock"

    @property
    def is_finished(self) -> bool:
        """Whether there is a result: it is the last thing that a run writes."""
        return self.result.is_file()

    @property
    def has_failed(self) -> bool:
        """Whether the last attempt ended with a code that starting again is no use to.

        Of a result that is missing after a good end, too.
        """
        attempts = self.attempts()
        code = attempts[-1].code if attempts else None
        return (
            not self.is_finished
            and code is not None
            and not lifecycle.is_retryable(code)
        )

    def state(self) -> str:
        """One of the words above, or "failed CODE"."""
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
        return AGAIN if lifecycle.is_retryable(code) else f"failed {code}"

    def attempts(self) -> list[Attempt]:
        """All of them, oldest first.

        Raises:
          UserError: the file is none of ours.
        """
        if not self._state.exists():
            return []
        try:
            found = json.loads(self._state.read_text())
            return [Attempt(**json_fields.check(one, _ATTEMPT_KINDS)) for one in found]
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{self._state} is no list of attempts ({error}); remove it, and the "
                "run goes on from its own files"
            ) from error

    def reason(self) -> str:
        """The last line that the last failed attempt printed; "" without one."""
        if not self.has_failed or not self.log.is_file():
            return ""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        # attempt.run appends "TIME exit code N" to what the program printed.
        printed = [
            line.strip()
            for line in lines
            if line.strip() and not _EXIT_LINE.search(line)
        ]
        return printed[-1] if printed else ""

    def begin(self) -> None:
        """Writes down that an attempt begins, and when one that was cut off ended."""
        before = self.attempts()
        if before and before[-1].ended is None:
            before[-1] = before[-1]._replace(ended=self._last_sign(before[-1]))
        self._write([*before, Attempt(socket.gethostname(), time.time())])

    def end(self, code: int) -> None:
        """Writes down how it ended."""
        *before, last = self.attempts()
        self._write([*before, last._replace(ended=time.time(), code=code)])

    def is_locked(self) -> bool:
        """Whether somebody runs it now."""
        if not self._lock.exists():
            return False
        with self._lock.open() as file:
            return not _take(file, is_shared=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[IO | None]:
        """The lock, open, to be handed to the run's process; None: somebody has it."""
        with self._lock.open("a") as file:
            yield file if _take(file) else None

    def seconds(self) -> float:
        """Spent on all attempts.

        Of one going on until now, of one cut off until it last wrote to its log or its
        result.
        """
        attempts = self.attempts()
        if attempts and attempts[-1].ended is None:
            last = attempts[-1]
            end = time.time() if self.is_locked() else self._last_sign(last)
            attempts[-1] = last._replace(ended=end)
        # One before the last without an end is of a folder older than this rule.
        known = [one for one in attempts if one.ended is not None]
        return sum((one.ended - one.started for one in known), 0.0)

    def _last_sign(self, attempt: Attempt) -> float:
        files = [path for path in (self.log, self.result) if path.is_file()]
        return max([attempt.started, *(path.stat().st_mtime for path in files)])

    def _write(self, attempts: list[Attempt]) -> None:
        files.write_json(self._state, [one._asdict() for one in attempts])


def exit_code(returncode: int) -> int:
    """As a shell says it: 128 + N of a process that signal N ended."""
    return returncode if returncode >= 0 else 128 + abs(signal.Signals(-returncode))


def _take(file: IO, *, is_shared: bool = False) -> bool:
    try:
        return locks.try_lock(file, is_shared=is_shared)
    except OSError as error:
        raise UserError(
            f"{file.name} cannot be locked ({error.strerror}); name a --root on a disk "
            "with file locks (flock)"
        ) from error
