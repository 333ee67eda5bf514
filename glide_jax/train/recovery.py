"""Rewinds to the last good checkpoint and skips the batches that caused divergence.

Every checkpoint records the steps passed over so far. A run that is interrupted after
a rewind, before its next save, rewinds in the same way again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import json
import logging
import os
import pathlib
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax

from glide_jax.config.defaults import Config, TrainConfig
from glide_jax.data import pipeline, schema
from glide_jax.errors import DivergedError, UserError
from glide_jax.parallel import digests, distributed
from glide_jax.runtime import lifecycle, metric_writers, wording
from glide_jax.train import run_log, setup, train_state


@dataclasses.dataclass(frozen=True)
class SkippedBatches:
    """Steps that only consume their batch, and the number of rewinds of a run."""

    steps: frozenset[int] = frozenset()
    rewinds: int = 0

    def as_json(self) -> dict[str, Any]:
        """The JSON value in a checkpoint's metadata, for `load`."""
        return {"rewinds": self.rewinds, "steps": sorted(self.steps)}


def load(past: Mapping[str, Any], workdir: pathlib.Path) -> SkippedBatches:
    """Steps passed over according to a checkpoint's `past`; {}: none.

    Raises:
      UserError: the file that older versions wrote beside checkpoints is damaged.
    """
    if not past:
        return SkippedBatches()
    stored = past.get("passed_over")
    if stored is None:
        path = workdir / "passed_over.json"
        stored = distributed.from_first("passed_over", lambda: _read_older(path))
        stored = json.loads(stored)
    return SkippedBatches(frozenset(stored["steps"]), stored["rewinds"])


def _read_older(path: pathlib.Path) -> bytes:
    nothing = b'{"rewinds": 0, "steps": []}'
    found = path.read_bytes() if path.exists() else nothing
    try:
        if json.loads(found).keys() == json.loads(nothing).keys():
            return found
    except (ValueError, AttributeError):
        pass
    raise UserError(f"{path} is not what was written; put it back, or remove it")


def go_back(
    run: setup.TrainingRun, passed_over: SkippedBatches, bad: range
) -> SkippedBatches:
    """Removes checkpoints made since the `bad` steps began, and marks these steps.

    Args:
      run: afterwards, its newest checkpoint is the one to resume from.
      passed_over: steps passed over so far.
      bad: the consecutive steps whose updates were skipped.

    Raises:
      DivergedError: no checkpoint to rewind to, or too many rewinds.
    """
    config, workdir, checkpoints = run.config, run.workdir, run.checkpoints
    told = (
        f"no update of steps {bad[0]} to {bad[-1]} could be made (their losses and "
        f"gradients are described in {workdir / 'skipped.jsonl'})"
    )
    remedy = (
        f"go on with an optim.learning_rate lower than {config.optim.learning_rate:g}"
    )
    if passed_over.rewinds >= config.train.max_rewinds:
        raise DivergedError(
            f"the run has diverged: {told}, after going back "
            f"train.max_rewinds={config.train.max_rewinds} times; {remedy}"
        )
    checkpoints.settle()
    good = [step for step in checkpoints.steps() if step < bad[0]]
    if not good:
        raise DivergedError(
            f"the run has diverged: {told}, and no checkpoint is older; start anew "
            f"with an optim.learning_rate lower than {config.optim.learning_rate:g}"
        )
    checkpoints.discard_after(good[-1])
    now = SkippedBatches(passed_over.steps | set(bad), passed_over.rewinds + 1)
    logging.warning("%s; going back to step %d and past their batches", told, good[-1])
    return now


# How often a process that waits for data checks for a stop request.
POLL_SECS = 0.1
# Longer than `data.disk` waits for a file: what reads until then waits for the disk.
LEAVE_SECS = 10.0


class StoppedError(Exception):
    """Raised out of the wait for a batch when a signal is received."""


def next_batch(batches: pipeline.Batches, stop: lifecycle.StopRequest) -> schema.Batch:
    """Waits for the next batch.

    Several processes agree on the step to stop at, which is after the step that the
    others have started: a process that waits for its rows of that step keeps waiting,
    up to the timeout of `data.disk`.

    Raises:
      StoppedError: a single process was asked to stop; no batch was consumed or
        counted, and nothing more is read.
      UserError: see `pipeline.make_batches`.
    """
    is_alone = not distributed.is_joined()
    while not batches.is_ready(POLL_SECS):
        if is_alone and stop.requested:
            batches.close()
            raise StoppedError
    return next(batches)


def leave(batches: pipeline.Batches) -> None:
    """Makes this process exit soon even if a read never returns.

    Must be called after everything is saved. At exit Python waits for the reader
    threads, one of which may hang on a disk that does not respond.
    """

    def end() -> None:
        if not batches.is_ready(LEAVE_SECS):
            logging.error("ended: the data that were waited for never came")
            logging.shutdown()
            sys.stderr.flush()
            os._exit(lifecycle.ExitCode.PREEMPTED)

    threading.Thread(target=end, daemon=True).start()


LOOK_EVERY_SECS = 0.5
# Time limit for the report, since the disk itself may not respond.
TELL_SECS = 5.0


class Watchdog(contextlib.AbstractContextManager):
    """A thread that ends the process when the loop has stalled for too long.

    A collective that waits for a lost device, or a disk that does not respond, cannot
    be interrupted from its own thread. The stacks of all threads are first written to
    `stacks/` of the workdir. From the first beat on, at most train.stall_secs may pass
    between two beats, including the compilation of the first step, and at most
    train.grace_secs from a signal to the end of the `with` block.
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
        self._stop_seen: float | None = None
        self._last_beat: float | None = None

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        self._thread.join()

    def beat(self) -> None:
        """Records that the loop makes progress."""
        self._last_beat = time.monotonic()

    def expect_end(self) -> None:
        """Records that the loop was asked to stop, possibly by another process."""
        if self._stop_seen is None:
            self._stop_seen = time.monotonic()

    def _watch(self) -> None:
        while not self._is_over.wait(LOOK_EVERY_SECS):
            if self._stop.requested:
                self.expect_end()
            now, beat = time.monotonic(), self._last_beat
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

    def _end(self, code: lifecycle.ExitCode, reason: str) -> None:
        teller = threading.Thread(target=self._tell, args=(reason,), daemon=True)
        teller.start()
        teller.join(TELL_SECS)
        os._exit(code)

    def _tell(self, reason: str) -> None:
        """Writes the stacks of all threads to a file, and logs the reason."""
        told = "where every thread stood could not be written"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"process_{jax.process_index()}.txt"
            with path.open("a") as file:
                file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {reason}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
            told = f"where every thread stood is in {path}"
        except OSError:
            pass  # the disk may be what does not answer, or is full
        logging.error("ended: %s; %s; the same command goes on", reason, told)
        logging.shutdown()
        sys.stderr.flush()


# A run has diverged if this many consecutive updates are skipped.
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
            f"at step {step} not all devices hold the same {arrays}, {path} first: "
            f"{', '.join(map(str, devices))} compute or remember wrongly; "
            "leave them out, and the same command goes on from the last checkpoint"
        )


def check_loss_scale(config: Config, row: Mapping[str, float], step: int) -> None:
    """Raises if a gradient overflowed at the minimum loss scale."""
    if row.get("overflows_at_floor"):
        floor = config.train.min_log2_loss_scale
        raise DivergedError(
            f"at step {step} float16 gradients overflow with the loss scale at its "
            f"floor, train.min_log2_loss_scale={floor:g}; go on with a lower "
            "optim.learning_rate, or start anew with model.compute_dtype=bfloat16"
        )


def check_end(config: Config, skipped_in_a_row: int) -> None:
    """Raises if the last updates of a run were all skipped."""
    if skipped_in_a_row >= MAX_SKIPPED_AT_END:
        raise DivergedError(
            f"the run has diverged: the last {skipped_in_a_row} updates were skipped, "
            "no gradient was finite; start again, or from an older checkpoint of the "
            f"run, with optim.learning_rate below {config.optim.learning_rate:g}"
        )
