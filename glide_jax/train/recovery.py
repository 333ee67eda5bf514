"""Recovery from divergence, stalls and stop requests.

After a streak of skipped updates the run rolls back to the newest checkpoint before it
and skips the batches of the streak. Every checkpoint records the steps skipped so far.
A run that is interrupted after a rollback, before its next save, rolls back in the same
way again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import logging
import os
import pathlib
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from glide_jax.config.defaults import Config, TrainConfig
from glide_jax.data import pipeline, schema
from glide_jax.errors import DeviceFailedError, DivergedError
from glide_jax.parallel import digests, distributed
from glide_jax.runtime import lifecycle, metric_writers, wording
from glide_jax.train import run_log, setup, train_state


@dataclasses.dataclass(frozen=True)
class SkippedBatches:
    """Steps that only consume their batch, and the number of rollbacks of a run."""

    steps: frozenset[int] = frozenset()
    rewinds: int = 0

    def as_json(self) -> dict[str, Any]:
        """The JSON value in a checkpoint's metadata, for `load`."""
        return {"rewinds": self.rewinds, "steps": sorted(self.steps)}


def load(past: Mapping[str, Any]) -> SkippedBatches:
    """The skipped batches in a checkpoint's metadata; {} for a fresh start: none."""
    if not past:
        return SkippedBatches()
    stored = past["passed_over"]
    return SkippedBatches(frozenset(stored["steps"]), stored["rewinds"])


def resume_metrics(
    run: setup.TrainingRun,
    writer: metric_writers.MetricsWriter,
    timer: run_log.StepTimer,
    step: int,
) -> tuple[run_log.MetricAccumulator, SkippedBatches]:
    """Restores the counters of a run, and removes the rows after `step`."""
    # Read before the rows of lost steps are removed, whose device hours count as well.
    device_hours = writer.last("speed/device_hours", default=0.0)
    skipped = load(run.past)
    # A fresh start writes its row of step 0 itself.
    writer.truncate_after(step or -1, skipped.steps)
    writer.make_up_for(run.past.get("unwritten", []))
    throughput = run_log.Throughput(run.config, device_hours)
    on_skipped = make_on_skipped(writer)
    accumulator = run_log.MetricAccumulator(timer, throughput, on_skipped=on_skipped)
    accumulator.rewind(run.past.get("window", {}))
    return accumulator, skipped


def roll_back(
    run: setup.TrainingRun, skipped: SkippedBatches, bad: range
) -> SkippedBatches:
    """Removes checkpoints made since the `bad` steps began, and marks these steps.

    Args:
      run: afterwards, its newest checkpoint is the one to resume from.
      skipped: steps skipped so far.
      bad: the consecutive steps whose updates were not applied.

    Raises:
      DivergedError: no checkpoint to restore, or too many rollbacks.
    """
    config, workdir, checkpoints = run.config, run.workdir, run.checkpoints
    rate = config.optim.learning_rate
    failed = (
        f"the updates of steps {bad[0]} to {bad[-1]} were skipped (their losses and "
        f"gradients are described in {workdir / 'skipped.jsonl'})"
    )
    if skipped.rewinds >= config.train.max_rewinds:
        raise DivergedError(
            f"the run has diverged: {failed}, after "
            f"train.max_rewinds={config.train.max_rewinds} rollbacks; resume with an "
            f"optim.learning_rate lower than {rate:g}"
        )
    checkpoints.settle()
    good = [step for step in checkpoints.steps() if step < bad[0]]
    if not good:
        raise DivergedError(
            f"the run has diverged: {failed}, and no checkpoint is older; start again "
            f"with an optim.learning_rate lower than {rate:g}"
        )
    checkpoints.discard_after(good[-1])
    if run.local is not None:
        run.local.discard_after(good[-1])
    logging.warning(
        "%s; rolling back to step %d without their batches", failed, good[-1]
    )
    return SkippedBatches(skipped.steps | set(bad), skipped.rewinds + 1)


# How often a process that waits for data checks for a stop request.
POLL_SECS = 0.1
# Longer than `data.retrying_reads` waits for a file: a later read is blocked by a disk.
LEAVE_SECS = 10.0


def next_batch(
    batches: pipeline.Batches, stop: lifecycle.StopRequest
) -> schema.Batch | None:
    """Waits for the next batch; None if a single process was asked to stop.

    Then no batch was consumed or counted, and the readers are closed. Several processes
    agree on the step to stop at, which is after the step that the others have started:
    a process that waits for its rows of that step keeps waiting, up to the timeouts of
    `data.retrying_reads` and `data.store_ranges`.

    Raises:
      UserError: see `pipeline.make_batches`.
    """
    is_alone = not distributed.is_joined()
    while not batches.is_ready(POLL_SECS):
        if is_alone and stop.requested:
            batches.close()
            return None
    return next(batches)


def exit_despite_reader(batches: pipeline.Batches) -> None:
    """Makes this process exit soon even if a read never returns.

    Must be called after everything is saved. At exit Python waits for the reader
    threads, one of which may be blocked by a disk that does not respond.
    """

    def end() -> None:
        if not batches.is_ready(LEAVE_SECS):
            logging.error("exiting while a read of the training data is blocked")
            logging.shutdown()
            sys.stderr.flush()
            os._exit(lifecycle.ExitCode.PREEMPTED)

    threading.Thread(target=end, daemon=True).start()


def make_is_stopping(
    stop: lifecycle.StopRequest, watchdog: Watchdog
) -> Callable[[], bool]:
    """Whether to stop, for the loop to poll after every step and evaluated batch.

    All processes must poll equally often, and get the same answers. Every call also
    records progress for the watchdog.
    """
    poll = distributed.StopPoll(stop)

    def is_stopping() -> bool:
        watchdog.beat()
        if poll():
            watchdog.expect_end()
        return poll.is_stopping

    return is_stopping


WATCH_EVERY_SECS = 0.5
# Time for a second Ctrl-C to end the process, before the watchdog does.
INTERRUPT_SECS = 2.0
# Time limit for the report, since the disk itself may not respond.
REPORT_SECS = 5.0


class Watchdog(contextlib.AbstractContextManager):
    """Ends a process that makes no progress, so that its launcher can restart it.

    A collective that waits for a lost device, or a disk that does not respond, cannot
    be interrupted from its own thread; another thread therefore ends the process. It
    first writes the stacks of all threads to `stacks/` of the workdir. From the first
    beat on, at most train.stall_secs may pass between two beats, including the
    compilation of the first step, and at most train.grace_secs from a signal to the end
    of the `with` block.

    It also logs the first signal, and ends the process at a second Ctrl-C: a
    compilation delays Python's own handlers until it is over.
    """

    def __init__(
        self,
        config: TrainConfig,
        workdir: pathlib.Path,
        stop: lifecycle.StopRequest,
    ) -> None:
        self._folder, self._stop = workdir / "stacks", stop
        self._stall_secs, self._grace_secs = config.stall_secs, config.grace_secs
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._signals = lifecycle.SignalPipe()
        self._has_signal = stop.requested
        self._stop_seen: float | None = None
        self._last_beat: float | None = None
        self._interrupted: float | None = None

    def __enter__(self) -> Watchdog:
        self._signals.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._signals.__exit__()

    def beat(self) -> None:
        """Records that the loop makes progress."""
        self._last_beat = time.monotonic()

    def expect_end(self) -> None:
        """Records that the loop was asked to stop, possibly by another process."""
        if self._stop_seen is None:
            self._stop_seen = time.monotonic()

    def _watch(self) -> None:
        while not self._is_over.wait(WATCH_EVERY_SECS):
            self._read_signals()
            if self._stop.requested:
                self.expect_end()
            now, beat = time.monotonic(), self._last_beat
            if self._interrupted and now - self._interrupted > INTERRUPT_SECS:
                os._exit(lifecycle.ExitCode.INTERRUPTED)
            if self._stall_secs and beat and now - beat > self._stall_secs:
                self._end(
                    lifecycle.ExitCode.STALLED,
                    f"no step in train.stall_secs={self._stall_secs:g} seconds",
                )
            if self._stop_seen and now - self._stop_seen > self._grace_secs:
                self._end(
                    lifecycle.ExitCode.TERMINATED,
                    "nothing saved in the train.grace_secs="
                    f"{self._grace_secs:g} seconds since a signal",
                )

    def _read_signals(self) -> None:
        for number in self._signals.received():
            if number not in (signal.SIGINT, signal.SIGTERM):
                continue
            if not self._has_signal:
                logging.warning(
                    "%s received: the run stops after the current step or compilation; "
                    "press Ctrl-C again to stop at once",
                    signal.Signals(number).name,
                )
            elif number == signal.SIGINT:
                self._interrupted = self._interrupted or time.monotonic()
            self._has_signal = True

    def _end(self, code: lifecycle.ExitCode, reason: str) -> None:
        report = threading.Thread(target=self._report, args=(reason,), daemon=True)
        report.start()
        report.join(REPORT_SECS)
        os._exit(code)

    def _report(self, reason: str) -> None:
        """Writes the stacks of all threads to a file, and logs the reason."""
        stacks = "the stacks of its threads could not be written"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"process_{jax.process_index()}.txt"
            with path.open("a") as file:
                file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {reason}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
            stacks = f"the stacks of its threads are in {path}"
        except OSError:
            pass  # the disk is full or does not respond
        logging.error(
            "process ended: %s; %s; the same command resumes the run", reason, stacks
        )
        logging.shutdown()
        sys.stderr.flush()


# How the runtime reports a device that fails. A compiler's error begins alike, so only
# those of steps count that follow a written row.
_DEVICE_FAILURE = re.compile(r"(INTERNAL|DATA_LOSS|UNAVAILABLE): ")


def device_failure(error: Exception) -> DeviceFailedError | None:
    """Returns the error of a device that failed while steps ran; None for another."""
    reason = str(error).partition("\n")[0]
    if distributed.is_peer_lost(error) or not _DEVICE_FAILURE.match(reason):
        return None
    return DeviceFailedError(
        f"a device failed: {reason}; the same command resumes from the last "
        "checkpoint; if it fails again, exclude this machine"
    )


# A run has diverged if this many consecutive updates at its end were skipped.
MAX_SKIPPED_AT_END = 10


def make_on_skipped(writer: metric_writers.MetricsWriter) -> run_log.OnSkipped:
    """Reports every skipped update: one log line, and details in skipped.jsonl."""

    def on_skipped(step: int, details: dict[str, Any]) -> None:
        logging.warning(
            "update %d skipped, number %d in a row: %s; examples %s at timesteps %s",
            step,
            details["skipped_in_a_row"],
            "a loss spike" if details["loss_spike"] else "not finite",
            _first_few(details["example_index"]),
            _first_few(details["timestep"]),
        )
        writer.skipped(step, details)

    return on_skipped


def _first_few(values: list[int]) -> str:
    few = ", ".join(map(str, values[:4]))
    return f"{few}, ..." if len(values) > 4 else few


def check_replicas(state: train_state.TrainState, step: int) -> None:
    """Raises if replicas of an array differ between devices."""
    differing = digests.differing_replicas(train_state.to_items(state))
    if differing:
        path, devices = differing[0]
        arrays = wording.counted(len(differing), "array")
        raise DivergedError(
            f"at step {step} the replicas of {arrays} differ, {path} first: "
            f"{', '.join(map(str, devices))} compute or store wrong values; exclude "
            "them, and the same command resumes from the last checkpoint"
        )


def check_loss_scale(config: Config, row: Mapping[str, float], step: int) -> None:
    """Raises if a gradient overflowed at the minimum loss scale."""
    if row.get("overflows_at_floor"):
        floor = config.train.min_log2_loss_scale
        raise DivergedError(
            f"at step {step} float16 gradients overflow with the loss scale at its "
            f"minimum, train.min_log2_loss_scale={floor:g}; resume with a lower "
            "optim.learning_rate, or start again with model.compute_dtype=bfloat16"
        )


def check_end(config: Config, skipped_in_a_row: int) -> None:
    """Raises if the last updates of a run were all skipped."""
    if skipped_in_a_row >= MAX_SKIPPED_AT_END:
        raise DivergedError(
            f"the run has diverged: the last {skipped_in_a_row} updates were skipped, "
            "by gradients that were not finite, overflows, or losses above "
            "train.skip_loss_above; start again, or from an older checkpoint of the "
            f"run, with optim.learning_rate below {config.optim.learning_rate:g}"
        )
