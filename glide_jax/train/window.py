"""What happened since the last log row: metrics of the steps, and where time went."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator

import jax
import numpy as np

from glide_jax.train import clock as clocks
from glide_jax.train import objectives, speed


class Window:
    """Metrics since the last log row, as sums and counts, and seconds by part."""

    def __init__(self, clock: clocks.Clock, meter: speed.Meter) -> None:
        self._clock, self._meter = clock, meter
        self._pending: collections.deque[objectives.Metrics] = collections.deque()
        self.skipped_in_a_row = 0  # updates skipped since the last one made
        self._clock.lap()  # what came before the first step is no step's
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, np.ndarray] = {}
        self._steps = 0

    def part(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Counts the `with` block as this part of the step's time."""
        return self._clock.measure(name)

    @contextlib.contextmanager
    def pause(self, name: str) -> Iterator[None]:
        """Counts the `with` block as a pause, after the devices have ended the step."""
        self._drain()
        with self.part(name):
            yield

    def add(self, step_metrics: objectives.Metrics) -> None:
        """Takes one step's metrics, reading those of the step before it.

        One step late, so that the next step is dispatched while this one runs.
        """
        self._pending.append(step_metrics)
        if len(self._pending) > 1:
            self._read(self._pending.popleft())

    def row(self, step: int) -> dict[str, float | int]:
        """Means over the steps since the last row, `step` the last, and their speed."""
        self._drain()
        means = {
            name: float(total / count)
            for name, (total, count) in self._sums.items()
            if count > 0
        }
        lap, elapsed = self._clock.lap(), self._clock.elapsed()
        means |= self._meter.row(step, lap, self._steps, elapsed)
        self._reset()
        return means

    def _drain(self) -> None:
        while self._pending:
            self._read(self._pending.popleft())

    def _read(self, step_metrics: objectives.Metrics) -> None:
        with self.part("device"):
            read = jax.device_get(step_metrics)
        for name, pair in read.items():
            self._sums[name] = self._sums.get(name, 0.0) + np.asarray(pair, np.float64)
        is_skipped = "skipped_updates" in read and read["skipped_updates"][0] > 0
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if is_skipped else 0
        self._steps += 1
