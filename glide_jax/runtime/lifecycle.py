"""The end of a run: exit codes, and a stop request that loops can poll."""

from __future__ import annotations

import enum
import os
import signal
import time
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

POLL_SECS = 0.1


class ExitCode(enum.IntEnum):
    """Exit statuses for launchers."""

    OK = 0
    USER_ERROR = 2  # a restart does not help, as with 3 and 4
    NO_CHECKPOINT = 3  # checkpoints exist, but none is valid
    DIVERGED = 4  # training diverged and could not recover
    PREEMPTED = 42  # the state is saved; the same command resumes
    INTERRUPTED = 130  # by Ctrl-C, without a clean shutdown
    PEER_LOST = 134  # another process of the run is gone; JAX exits by SIGABRT
    STALLED = 135  # no step completed within the time limit
    DEVICE_FAILED = 136  # the runtime reported a failure between two rows
    TERMINATED = 143  # by a signal, before the state could be saved


def is_retryable(code: int) -> bool:
    """Whether a launcher should restart the same command; launch/restart.sh does.

    A shell also reports 128 and up for a process that a signal ended.
    """
    return code == ExitCode.PREEMPTED or code >= 128


class StoppedError(Exception):
    """Raised out of work that a signal stopped; `glide` prints it and exits with 42."""


class StopRequest:
    """Turns SIGTERM and SIGINT into a flag while the `with` block runs.

    The loop polls `requested`, saves and returns. A second SIGINT raises
    KeyboardInterrupt, which exits at once. The flag is local to this process. The block
    must be entered in the main thread: Python handles signals nowhere else.

    With `is_shared`, for one of several processes, SIGTERM is left to JAX, which
    notifies all of them (see `parallel.distributed.StopPoll`), and SIGINT is turned
    into SIGTERM.

    A nested request starts with the signal of the outer one. Other signals keep their
    handlers.
    """

    def __init__(
        self,
        *,
        is_shared: bool = False,
        signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
    ) -> None:
        self._is_shared = is_shared
        self._signals = (signal.SIGINT,) if is_shared else signals
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """True once a signal has been received."""
        return self.signal is not None

    @property
    def signal_name(self) -> str:
        """The received signal, such as "SIGTERM"; "" if none."""
        return "" if self.signal is None else self.signal.name

    def check(self) -> None:
        """Raises StoppedError if a stop is requested before there is a state to save.

        One of several processes cannot exit alone, and continues.
        """
        if self.requested and not self._is_shared:
            raise StoppedError(
                f"stopped by {self.signal_name} before the first step, with nothing to "
                "save; the same command starts again"
            )

    def sleep(self, seconds: float) -> bool:
        """Sleeps, at most until a signal is received; returns whether one was."""
        end = time.monotonic() + seconds
        while not self.requested and time.monotonic() < end:
            time.sleep(min(POLL_SECS, seconds))
        return self.requested

    def __enter__(self) -> StopRequest:
        outer = current()
        for number in self._signals:
            self._previous[number] = signal.signal(number, self._handle)
        if outer is not None and outer.signal is not None:
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


class SignalPipe:
    """Receives the numbers of this process's signals as they arrive.

    Python calls its handlers between two instructions of the main thread, and so not
    while that compiles a program or waits for a device; another thread can read the
    pipe meanwhile. The block must be entered in the main thread. Only signals with a
    handler in Python are received.
    """

    def __enter__(self) -> SignalPipe:
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        self._previous = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.set_wakeup_fd(self._previous)
        os.close(self._read)
        os.close(self._write)

    def received(self) -> list[int]:
        """The signals since the last call, in order; never blocks."""
        try:
            return list(os.read(self._read, 1024))
        except BlockingIOError:
            return []


def current() -> StopRequest | None:
    """The request that handles Ctrl-C now, or None if it raises KeyboardInterrupt."""
    owner = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    return owner if isinstance(owner, StopRequest) else None
