"""Accumulates metrics and times of the steps since the last log row."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from glide_jax.train import clock as clocks
from glide_jax.train import objectives, speed
from glide_jax.train import step as steps

# Called for each skipped update: its step, and the step's details as JSON values.
OnSkipped = Callable[[int, dict[str, Any]], None]


class Window:
    """Metrics since the last log row, as sums and counts, and seconds by part.

    Attributes:
      skipped: steps whose updates were skipped since the last one applied, as far as
        their results were read.
    """

    def __init__(
        self,
        clock: clocks.Clock,
        meter: speed.Meter,
        on_skipped: OnSkipped = lambda step, record: None,
    ) -> None:
        self._clock, self._meter, self._on_skipped = clock, meter, on_skipped
        self.rewind({})

    def rewind(self, sums: Mapping[str, Sequence[float]]) -> None:
        """Resets to these sums, which `sums` returned at a checkpoint."""
        self._clock.lap()  # the time is reset as well
        self._pending: collections.deque = collections.deque()
        self.skipped = range(0)
        self._begin(sums)

    def _begin(self, sums: Mapping[str, Sequence[float]]) -> None:
        self._sums = {name: np.asarray(pair, float) for name, pair in sums.items()}
        self._steps = 0

    @property
    def skipped_in_a_row(self) -> int:
        """The length of `skipped`."""
        return len(self.skipped)

    def sums(self) -> dict[str, list[float]]:
        """(sum, count) of every metric since the last row, as JSON values."""
        self._drain()
        return {name: pair.tolist() for name, pair in self._sums.items()}

    def part(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Measures the `with` block as this part of the step's time."""
        return self._clock.measure(name)

    @contextlib.contextmanager
    def pause(self, name: str) -> Iterator[None]:
        """Measures the `with` block as a pause, after the devices finish the step."""
        self._drain()
        with self.part(name):
            yield

    def add(
        self, step: int, metrics: objectives.Metrics, details: steps.Details
    ) -> None:
        """Adds one step's results, and reads those of the previous step.

        The delay lets the next step be dispatched while this one runs.
        """
        self._pending.append((step, metrics, details))
        if len(self._pending) > 1:
            self._read(*self._pending.popleft())

    def pass_over(self) -> None:
        """Counts a batch that was consumed without an update."""
        self._drain()
        self._steps += 1
        self.skipped = range(0)

    def row(self, step: int) -> dict[str, float | int]:
        """Means over the steps since the last row up to `step`, and their speed."""
        self._drain()
        means = {
            name: float(total / count)
            for name, (total, count) in self._sums.items()
            if count > 0
        }
        lap, elapsed = self._clock.lap(), self._clock.elapsed()
        means |= self._meter.row(step, lap, self._steps, elapsed)
        self._begin({})
        return means

    def _drain(self) -> None:
        while self._pending:
            self._read(*self._pending.popleft())

    def _read(
        self, step: int, metrics: objectives.Metrics, details: steps.Details
    ) -> None:
        skipped_in_a_row = details["skipped_in_a_row"]
        with self.part("device"):
            read, skipped_in_a_row = jax.device_get((metrics, skipped_in_a_row))
        for name, pair in read.items():
            self._sums[name] = self._sums.get(name, 0.0) + np.asarray(pair, np.float64)
        self._steps += 1
        self.skipped = range(step + 1 - int(skipped_in_a_row), step + 1)
        if self.skipped:
            details = jax.device_get(details)
            self._on_skipped(step, {n: v.tolist() for n, v in details.items()})
