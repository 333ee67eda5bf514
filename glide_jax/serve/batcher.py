"""A bounded queue of pictures, and the batches that one thread draws of them.

A job is the pictures of one request. Its rows wait in the queue until their group has
`batch_size` of them, or the oldest has waited `max_delay_s`. Rows of one group may be
drawn together. A job is cancelled by its future, at any time and from any thread.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent import futures
from typing import Any

from glide_jax.errors import DeviceFailedError, UserError

# After so many failed batches in a row, the device is taken for broken.
MAX_FAILURES = 3


class QueueFullError(Exception):
    """The queue has no room for the rows of a job.

    Attributes:
      retry_after_s: whole seconds after which there may be room.
    """

    def __init__(self, retry_after_s: int):
        super().__init__(f"the queue is full; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class DrainingError(Exception):
    """The server is stopping and takes no more jobs."""


class AbandonedError(Exception):
    """Raised within a batch whose every job is cancelled."""


@dataclasses.dataclass(eq=False)
class Job:
    """The rows of one request, and what was drawn of them.

    Attributes:
      future: of the results, in the order of the rows.
      results: by the number of the row.
    """

    count: int
    future: futures.Future[list[Any]] = dataclasses.field(
        default_factory=futures.Future
    )
    results: dict[int, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(eq=False)
class _Row:
    job: Job
    number: int
    content: Any
    group: Hashable
    arrived: float


@dataclasses.dataclass(frozen=True)
class Events:
    """Callbacks of a batcher, for metrics.

    Attributes:
      queued: called with the number of waiting rows, after each change.
      drawn: called with the number of rows of a finished batch, and its seconds.
      abandoned: called for each batch that was given up.
    """

    queued: Callable[[int], None] = lambda count: None
    drawn: Callable[[int, float], None] = lambda count, seconds: None
    abandoned: Callable[[], None] = lambda: None


# (group, contents of its rows, poll) -> a result per row. It calls `poll` often.
Draw = Callable[[Any, list[Any], Callable[[], None]], Sequence[Any]]


class Batcher:
    """Joins the rows of jobs in batches, and draws them in a thread of its own."""

    def __init__(
        self,
        draw: Draw,
        *,
        batch_size: int,
        max_delay_s: float | int,
        max_queue: int,
        events: Events | None = None,
    ):
        """Starts no thread; see `start`.

        Args:
          draw: draws a batch.
          batch_size: most rows of a batch.
          max_delay_s: longest wait of a row for others, in an idle server.
          max_queue: most rows that wait.
          events: see the class.
        """
        self._draw, self._events = draw, events or Events()
        self._batch_size, self._max_delay_s = batch_size, max_delay_s
        self._max_queue = max_queue
        self._changed = threading.Condition()
        self._rows: list[_Row] = []
        self._drawing: list[_Row] = []
        self._is_draining = False
        self._failures = 0
        self._batch_s = 1.0  # smoothed seconds of a batch
        self._pool = futures.ThreadPoolExecutor(1, "draw")
        self._loop = threading.Thread(target=self._run, name="batcher", daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Begins to draw."""
        self._loop.start()

    def submit(self, group: Hashable, contents: Sequence[Any]) -> Job:
        """Queues the rows of a job.

        Raises:
          QueueFullError: there is no room for all of them.
          DrainingError: after `drain`.
        """
        now = time.monotonic()
        job = Job(len(contents))
        rows = [_Row(job, i, one, group, now) for i, one in enumerate(contents)]
        with self._changed:
            if self._is_draining:
                raise DrainingError("the server is stopping")
            self._drop_cancelled()
            waiting = len(self._rows)
            if waiting + len(rows) > self._max_queue:
                batches = -(-max(waiting, 1) // self._batch_size)
                raise QueueFullError(max(1, round(batches * self._batch_s)))
            self._rows += rows
            self._note()
        # A job that is cancelled leaves the queue at once.
        job.future.add_done_callback(lambda future: self._wake())
        return job

    def drain(self, timeout_s: float | int) -> bool:
        """Takes no more jobs and waits for those that it has.

        After `timeout_s` the rest is cancelled. Returns whether all were finished.
        """
        with self._changed:
            self._is_draining = True
            self._changed.notify_all()
        try:
            self._loop.join(timeout_s)
        finally:  # a second Ctrl-C
            is_finished = not self._loop.is_alive()
            with self._changed:
                left = {row.job for row in [*self._rows, *self._drawing]}
            for job in left:
                job.future.cancel()
        self._loop.join()
        return is_finished

    @property
    def is_draining(self) -> bool:
        """Whether no more jobs are taken."""
        return self._is_draining

    def _run(self) -> None:
        while batch := self._next():
            self._draw_batch(batch)
        self._pool.shutdown()

    def _next(self) -> list[_Row]:
        """Waits for the next batch and takes it; [] ends the thread."""
        with self._changed:
            while self.failure is None:
                self._drop_cancelled()
                if not self._rows and self._is_draining:
                    break
                found, wait_s = self._choose(time.monotonic())
                if found:
                    self._drawing = found
                    self._rows = [row for row in self._rows if row not in found]
                    self._note()
                    return found
                self._changed.wait(wait_s)
            return []

    def _choose(self, now: float) -> tuple[list[_Row], float | None]:
        """Returns the rows of the next batch, or [] and the seconds until one is due.

        Of the groups that are full or due, the one whose first row is oldest.
        """
        groups: dict[Hashable, list[_Row]] = collections.defaultdict(list)
        for row in self._rows:
            groups[row.group].append(row)
        wait_s = None
        for rows in groups.values():  # in the order of their first rows
            left_s = rows[0].arrived + self._max_delay_s - now
            if len(rows) >= self._batch_size or left_s <= 0 or self._is_draining:
                return rows[: self._batch_size], None
            wait_s = left_s if wait_s is None else min(wait_s, left_s)
        return [], wait_s

    def _draw_batch(self, batch: list[_Row]) -> None:
        def poll() -> None:
            if all(row.job.future.cancelled() for row in batch):
                raise AbandonedError

        start = time.monotonic()
        contents = [row.content for row in batch]
        # The executor holds whatever is raised.
        drawing = self._pool.submit(self._draw, batch[0].group, contents, poll)
        error = drawing.exception()
        seconds = time.monotonic() - start
        with self._changed:
            self._drawing = []
        if error is None:
            self._failures = 0
            self._batch_s += 0.3 * (seconds - self._batch_s)
            self._events.drawn(len(batch), seconds)
            for row, result in zip(batch, drawing.result(), strict=True):
                _finish(row, result)
            return
        if isinstance(error, AbandonedError):
            self._events.abandoned()
            return
        if not isinstance(error, UserError):
            logging.error("a batch failed: %s", error, exc_info=error)
            self._failures += 1
        for job in {row.job for row in batch}:
            _fail(job, error)
        if self._failures == MAX_FAILURES:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        """Ends the thread and answers every job that waits."""
        line = (str(error).splitlines() or [type(error).__name__])[0]
        failure = DeviceFailedError(
            f"{MAX_FAILURES} batches in a row failed, the last with: {line}; a restart "
            "may help"
        )
        with self._changed:
            self.failure, self._is_draining = failure, True
            left = {row.job for row in self._rows}
            self._rows = []
            self._note()
        for job in left:
            _fail(job, failure)

    def _drop_cancelled(self) -> None:
        kept = [row for row in self._rows if not row.job.future.done()]
        if len(kept) < len(self._rows):
            self._rows = kept
            self._note()

    def _note(self) -> None:
        self._events.queued(len(self._rows))
        self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._drop_cancelled()
            self._changed.notify_all()


def _finish(row: _Row, result: Any) -> None:
    """Keeps the result of a row; the last one completes its job."""
    job = row.job
    job.results[row.number] = result
    if len(job.results) == job.count and job.future.set_running_or_notify_cancel():
        job.future.set_result([job.results[i] for i in range(job.count)])


def _fail(job: Job, error: BaseException) -> None:
    """Ends a job by an error; its other rows are dropped."""
    if not job.future.done() and job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)
