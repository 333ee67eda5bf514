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

    def call(self, function: Callable[..., Any], *arguments: Any, secs: float) -> Any:
        """Returns the result of a module's function.

        Raises:
          BrokenProcessPool: the process ended.
          TimeoutError: it took more than `secs`.
          Exception: what the function raised.
        """
        if self._pool is None:
            self._pool = futures.ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn"), initializer=_end_with_parent
            )
            self._pid = self._pool.submit(os.getpid).result()
        is_done = False
        try:
            result = self._pool.submit(function, *arguments).result(secs)
            is_done = True
        finally:
            if not is_done:
                self.close()
        return result

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
