"""Measures where the time of a run is spent.

The parts of a lap add up to its duration: unmeasured time is "other".
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

# Waiting for the next batch; dispatching a step to the devices; waiting for its result;
# pauses of the training; and, once per process, compiling the step.
STEP_PARTS = ("input_wait", "dispatch", "device")
PAUSES = ("checkpoint", "evaluation")
PARTS = (*STEP_PARTS, *PAUSES, "compile")


class Clock:
    """A stopwatch with named parts, which must not be nested."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._start = now()
        self._begin_lap()

    def _begin_lap(self) -> None:
        self._lap_start = self._now()
        self._parts = dict.fromkeys(PARTS, 0.0)

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Adds the duration of the `with` block to one of PARTS."""
        start = self._now()
        try:
            yield
        finally:
            self._parts[part] += self._now() - start

    def lap(self) -> dict[str, float]:
        """Seconds since the last lap by part, including "other"; starts a new lap."""
        parts = self._parts
        parts["other"] = self._now() - self._lap_start - sum(parts.values())
        self._begin_lap()
        return parts

    def elapsed(self) -> float:
        """Seconds since the clock was created."""
        return self._now() - self._start
