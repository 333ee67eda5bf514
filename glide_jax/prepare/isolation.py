"""Calls a function in a process of its own, which may end or hang.

The process is spawned, not forked: a worker of an engine has threads of gRPC, which do
not survive a fork. It serves many calls, and is replaced after a failure.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

_POLL_SECS = 2.0


class Isolated:
    """One process that makes calls."""

    def __init__(self) -> None:
        self._pool: futures.ProcessPoolExecutor | None = None
        self._pid = 0

    def call(
        self, function: Callable[..., Any], *arguments: Any, secs: int
    ) -> BaseException | None:
        """Calls a module's function; returns why it failed, or None.

        Returns:
          What the function raised, BrokenProcessPool if it ended its process, or
          TimeoutError if it took more than `secs`.
        """
        if self._pool is None:
            self._pool = futures.ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn"), initializer=_end_with_parent
            )
            self._pid = self._pool.submit(os.getpid).result()
        try:
            error = self._pool.submit(function, *arguments).exception(secs)
        except TimeoutError as late:
            error = late
        if error is not None:
            self.close()
        return error

    def close(self) -> None:
        """Ends the process."""
        if self._pool is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._pool.shutdown()
        self._pool = None


def _end_with_parent() -> None:
    """Ends this process soon after its parent.

    It waits for calls by a pipe that it holds open itself, and would outlive a parent
    that is killed.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
