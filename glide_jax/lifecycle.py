"""How a run ends: its exit codes, and a request to stop that loops can poll."""

from __future__ import annotations

import enum
import os
import signal
from types import FrameType, TracebackType


class ExitCode(enum.IntEnum):
    """What a launcher may conclude from the exit status."""

    OK = 0
    USER_ERROR = 2  # starting again changes nothing, as with 3 and 4
    NO_CHECKPOINT = 3  # there are checkpoints and none is good
    DIVERGED = 4  # numbers went wrong beyond what the run may mend
    PREEMPTED = 42  # the state is saved; the same command resumes
    INTERRUPTED = 130  # by a second Ctrl-C; resumes from the last checkpoint, as all
    PEER_LOST = 134  # another process of the run is gone; as JAX ends by SIGABRT
    STALLED = 135  # no step in too long a time
    TERMINATED = 143  # by a signal, and the state could not be saved in time


def is_again(code: int) -> bool:
    """Whether a launcher is to start the same command again; launch/restart.sh does.

    128 and up is also what a shell says of a process that a signal ended.
    """
    return code == ExitCode.PREEMPTED or code >= 128


class StopRequest:
    """Turns SIGTERM and SIGINT into a flag while the `with` block runs.

    The loop polls `requested`, saves and returns. A second SIGINT raises
    KeyboardInterrupt, for those who will not wait. The flag is of this process
    only. Must be entered in the main thread: Python handles signals nowhere else.

    With `is_shared`, for one of several processes, SIGTERM is left to JAX, which tells
    all of them (see `parallel.distributed.stop_agreed`), and SIGINT becomes one.
    """

    def __init__(self, *, is_shared: bool = False) -> None:
        self._is_shared = is_shared
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    @property
    def requested(self) -> bool:
        """True once a signal has come."""
        return self.signal is not None

    def __enter__(self) -> StopRequest:
        shared, own = (signal.SIGINT,), (signal.SIGTERM, signal.SIGINT)
        for number in shared if self._is_shared else own:
            self._previous[number] = signal.signal(number, self._handle)
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
        if self._is_shared:
            os.kill(os.getpid(), signal.SIGTERM)
        self.signal = signal.Signals(number)
