"""How a run ends: its exit codes, and a request to stop that loops can poll."""

from __future__ import annotations

import enum
import os
import signal
import time
from collections.abc import Sequence
from types import FrameType, TracebackType

POLL_SECS = 0.1


class ExitCode(enum.IntEnum):
    """What a launcher may conclude from the exit status."""

    OK = 0
    USER_ERROR = 2  # starting again changes nothing, as with 3 and 4
    NO_CHECKPOINT = 3  # there are checkpoints and none is good
    DIVERGED = 4  # numbers went wrong beyond what the run may mend
    PREEMPTED = 42  # the state is saved; the same command resumes
    INTERRUPTED = 130  # by Ctrl-C, without waiting for an end in good order
    PEER_LOST = 134  # another process of the run is gone; as JAX ends by SIGABRT
    STALLED = 135  # no step in too long a time
    TERMINATED = 143  # by a signal, and the state could not be saved in time


def is_again(code: int) -> bool:
    """Whether a launcher is to start the same command again; launch/restart.sh does.

    128 and up is also what a shell says of a process that a signal ended.
    """
    return code == ExitCode.PREEMPTED or code >= 128


class StoppedError(Exception):
    """Leads out of work that a signal has stopped; `glide` tells its line, with 42."""


class StopRequest:
    """Turns SIGTERM and SIGINT into a flag while the `with` block runs.

    The loop polls `requested`, saves and returns. A second SIGINT raises
    KeyboardInterrupt, for those who will not wait. The flag is of this process
    only. Must be entered in the main thread: Python handles signals nowhere else.

    With `is_shared`, for one of several processes, SIGTERM is left to JAX, which tells
    all of them (see `parallel.distributed.stop_agreed`), and SIGINT becomes one.

    Within the block of another one it begins with what that one was told. The signals
    that are no flag do as they did before.
    """

    def __init__(
        self,
        *,
        is_shared: bool = False,
        heeded: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
    ) -> None:
        self._is_shared = is_shared
        self._heeded = (signal.SIGINT,) if is_shared else heeded
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    @property
    def requested(self) -> bool:
        """True once a signal has come."""
        return self.signal is not None

    def check(self) -> None:
        """Raises StoppedError where there is nothing yet to be saved before the end.

        One of several processes cannot leave alone, and goes on.
        """
        if self.requested and not self._is_shared:
            raise StoppedError(
                f"stopped by {self.signal.name} before the first step, with nothing to "
                "save; the same command starts again"
            )

    def sleep(self, seconds: float) -> bool:
        """Lets time pass, at most until a signal comes; returns whether one has."""
        end = time.monotonic() + seconds
        while not self.requested and time.monotonic() < end:
            time.sleep(min(POLL_SECS, seconds))
        return self.requested

    def __enter__(self) -> StopRequest:
        outer = current()
        for number in self._heeded:
            self._previous[number] = signal.signal(number, self._handle)
        if outer is not None and outer.requested:
            self._note(outer.signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            # None: the handler was not installed from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._note(number)

    def _note(self, number: int) -> None:
        if self._is_shared:
            os.kill(os.getpid(), signal.SIGTERM)
        self.signal = signal.Signals(number)


def current() -> StopRequest | None:
    """The request that Ctrl-C goes to now, or None where it raises as ever."""
    owner = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    return owner if isinstance(owner, StopRequest) else None
