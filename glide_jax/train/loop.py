"""The training loop: fetch a batch, step, log, evaluate, save, stop."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import pathlib
from collections.abc import Callable, Collection
from typing import Any

import jax

from glide_jax.config.defaults import Config
from glide_jax.data import bad_records, pipeline, schema
from glide_jax.errors import UserError
from glide_jax.parallel import distributed, sharding
from glide_jax.runtime import files, lifecycle, metric_writers, progress
from glide_jax.train import (
    periodic_eval,
    profiling,
    recovery,
    run_folder,
    run_log,
    setup,
    train_state,
)


def train(
    config: Config,
    workdir: pathlib.Path,
    *,
    make_grid_hook: periodic_eval.MakeGridHook | None = None,
    make_evaluation_hook: periodic_eval.MakeEvaluationHook | None = None,
    profile_steps: range = range(0),
    allow_change: Collection[str] = (),
) -> lifecycle.ExitCode:
    """Trains to train.num_steps; returns OK, or PREEMPTED after a signal.

    Called again on the same folder it resumes from the newest valid checkpoint, with
    results bitwise equal to those of an uninterrupted run. With several processes all
    must call it; only process 0 writes anything except state. The `profile_steps` are
    traced for TensorBoard's profiler into `profile/`.

    Raises:
      UserError: a start that is refused (see `setup.prepare`), a folder that another
        run writes to or has taken over (see `run_folder.sole_writer`), too much
        unreadable data, or metrics that cannot be written (completed steps are saved,
        unless one process of several fails alone).
      DivergedError: too many skipped updates.
      DeviceFailedError: a device failed after this process had written a row.
      StoppedError: a signal was received before there was a state to save.
    """
    with (
        lifecycle.StopRequest(is_shared=distributed.is_joined()) as stop,
        recovery.Watchdog(config.train, workdir, stop) as watchdog,
        run_folder.sole_writer(workdir, config.train, stop.check) as check_writer,
    ):
        timer = run_log.StepTimer()
        run, state = setup.prepare(
            config,
            workdir,
            allow_change=allow_change,
            check_stop=stop.check,
            check_writer=check_writer,
        )
        stop.check()
        watchdog.beat()
        step, last = int(state.step), config.train.num_steps
        is_first = jax.process_index() == 0
        writer = metric_writers.MetricsWriter(workdir, config, enabled=is_first)
        with (
            progress.ProgressBar(
                last, config.name, initial=step, enabled=is_first
            ) as bar,
            profiling.Profiler(workdir / "profile", profile_steps) as profiler,
            contextlib.closing(run.checkpoints),
            contextlib.closing(run.local) if run.local else contextlib.nullcontext(),
            contextlib.closing(writer),
        ):
            metrics, skipped = recovery.resume_metrics(run, writer, timer, step)
            is_stopping = recovery.make_is_stopping(stop, watchdog)
            evals = periodic_eval.PeriodicEval(
                run, writer, metrics, make_grid_hook, is_stopping, make_evaluation_hook
            )
            loop = Loop(run, writer, metrics, evals, profiler, bar, stop, is_stopping)
            return loop.run_from(state, step, skipped)


@dataclasses.dataclass
class Loop:
    """Runs the steps of a run.

    Attributes:
      state: the state after `step`, the last completed step.
      batches: the batches after `step`.
      skipped: the steps that only consume their batch.
    """

    run: setup.TrainingRun
    writer: metric_writers.MetricsWriter
    accumulator: run_log.MetricAccumulator
    evals: periodic_eval.PeriodicEval
    profiler: profiling.Profiler
    bar: progress.ProgressBar
    stop: lifecycle.StopRequest  # checked between polls while waiting for data
    is_stopping: Callable[[], bool]
    state: train_state.TrainState = dataclasses.field(init=False)
    step: int = dataclasses.field(init=False)
    batches: pipeline.Batches = dataclasses.field(init=False)
    skipped: recovery.SkippedBatches = dataclasses.field(init=False)
    has_compiled: bool = False
    has_row: bool = False
    has_warned_of_input: bool = False

    def run_from(
        self,
        state: train_state.TrainState,
        step: int,
        skipped: recovery.SkippedBatches,
    ) -> lifecycle.ExitCode:
        """Continues from the state of `step` until the last step or a signal."""
        run, last = self.run, self.run.config.train.num_steps
        self.state, self.step, self.skipped = state, step, skipped
        missing = self.evals.missing(step)
        if step >= last and not missing:
            logging.info("already trained to step %d", step)
        self.evals.make(missing, state, step)
        if missing and step:
            run.checkpoints.add_metrics(step, self.best_metric())
        # Checked before the first step is compiled, which may take minutes.
        if step < last and not self.evals.are_cut_off and not self.is_stopping():
            self.batches = run.make_batches(step, run.past.get("bad_records", {}))
            try:
                self.run_steps()
            except jax.errors.JaxRuntimeError as error:
                failure = recovery.device_failure(error) if self.has_row else None
                if failure is None:
                    raise
                raise failure from error
            finally:
                self.batches.close()
        run.checkpoints.wait()
        if self.step < last or self.evals.are_cut_off:
            done = (
                f"step {self.step} is saved" if self.step else "before the first step"
            )
            logging.warning("stopped by a signal; %s", done)
            return lifecycle.ExitCode.PREEMPTED
        if run.local is not None:
            run.local.delete()
        return lifecycle.ExitCode.OK

    def run_steps(self) -> None:
        """Runs and saves steps until the last one or a signal."""
        config, last = self.run.config, self.run.config.train.num_steps
        is_over = False
        while not is_over and self.step < last:
            batch = self.next_batch()
            if batch is None:
                self.save_early()
                recovery.exit_despite_reader(self.batches)
                return
            self.make_step(batch)
            self.check_checkpoint_writes()
            if self.accumulator.skipped_in_a_row >= config.train.max_skipped_in_a_row:
                self.roll_back()
                continue
            self.run.check_writer()
            # Each of the following has its own interval; all are due at the end.
            step = self.step
            if step in (1, last) or periodic_eval.is_due(step, config.log.every_steps):
                self.write_row()
            if periodic_eval.is_due(step, config.train.check_replicas_every_steps):
                recovery.check_replicas(self.state, step)
            self.evals.make_due(self.state, step)
            if self.writer.failure:
                self.save_early()
                raise UserError(self.writer.failure)
            # Saved last, so that a saved step has all of its rows and images, except
            # those that a signal interrupted.
            is_over = self.is_stopping()
            is_end = is_over or step == last
            if not is_end:
                self.save_locally_if_due()
            every_steps = config.checkpoint.every_steps
            if is_end or periodic_eval.is_due(step, every_steps):
                with self.accumulator.pause("checkpoint"):
                    self.save()

    def next_batch(self) -> schema.Batch | None:
        """Waits for the next batch; None if a single process was asked to stop.

        Raises:
          UserError: see `pipeline.make_batches`; the completed steps are saved.
        """
        try:
            with self.accumulator.part("input_wait"):
                return recovery.next_batch(self.batches, self.stop)
        except UserError:
            self.save_early()
            raise

    def make_step(self, batch: schema.Batch) -> None:
        """Makes the next step, or only consumes its batch."""
        self.step += 1
        if self.step in self.skipped.steps:
            self.state = self.run.skip_batch(self.state)
            self.accumulator.skip_batch()
        else:
            part = "dispatch" if self.has_compiled else "compile"
            with (
                self.profiler.step(self.step, self.state),
                self.accumulator.part(part),
            ):
                self.state, metrics, details = self.run.train_step(
                    self.state, sharding.to_global(batch, self.run.mesh), self.run.seed
                )
            self.accumulator.add(self.step, metrics, details)
            self.has_compiled = True
        self.bar.update()

    def write_row(self) -> None:
        """Writes the metrics since the last row; raises if the run has diverged."""
        config, step = self.run.config, self.step
        row = self.accumulator.row(step) | bad_records.metrics(self.count_bad())
        self.run.check_writer()
        if "loss" in row:
            self.bar.note(loss=row["loss"])
        logging.info(run_log.line(step, row))
        warning = run_log.input_warning(config, row)
        if warning and not self.has_warned_of_input:
            self.has_warned_of_input = True
            logging.warning(warning)
        self.writer.scalars(step, row)
        self.has_row = True
        recovery.check_loss_scale(config, row, step)
        if step == config.train.num_steps:
            recovery.check_end(config, self.accumulator.skipped_in_a_row)

    def check_checkpoint_writes(self) -> None:
        """Raises if too many checkpoints in a row could not be written.

        A failure is logged at once, and the write is retried when the next is due.
        """
        failure = self.run.checkpoints.poll()
        failures = self.run.checkpoints.failures_in_a_row
        if failure and failures >= run_folder.MAX_FAILED_WRITES:
            raise UserError(f"{failure} (and so did the {failures - 1} before it)")

    def count_bad(self) -> dict[str, Any]:
        """Unusable records of all processes so far."""
        return run_log.total(self.batches.faults, self.run.part)

    def save(self) -> None:
        """Starts to write a checkpoint, with the counters that a resumed run needs."""
        counters = self.counters()
        if self.writer.failure:
            counters["unwritten"] = self.writer.unwritten
        self.sync_rows()
        metrics = self.best_metric()
        policy = self.run.config.checkpoint
        if policy.keep_best and not metrics:
            warn_without_metric(policy.best_metric)
        # A streak of skipped updates may not be over, but a rollback needs its start.
        skipped = self.accumulator.skipped
        bad_from = skipped[0] if skipped else None
        self.run.save(self.state, self.step, counters, metrics, bad_from=bad_from)

    def counters(self) -> dict[str, Any]:
        """What a resumed run needs beside the state, as JSON values."""
        return {
            "window": self.accumulator.sums(),
            "bad_records": self.count_bad(),
            "passed_over": self.skipped.as_json(),
        }

    def sync_rows(self) -> None:
        """Flushes the rows to the disk, to be as durable as the step that follows."""
        if not self.writer.failure:
            self.writer.sync()
        bad_log = run_log.log_path(self.run.workdir)
        if bad_log.exists():
            files.sync(bad_log)

    def save_locally_if_due(self) -> None:
        """Starts to write a checkpoint to each host's own disk, if one is due."""
        local = self.run.local
        if local is None or not periodic_eval.is_due(self.step, local.every_steps):
            return
        with self.accumulator.pause("checkpoint"):
            items = train_state.to_items(self.state)
            meta = {**self.run.facts, **self.counters()}
            # In its thread, since the shared disk may take its time.
            local.save(self.step, items, meta, self.sync_rows)

    def save_early(self) -> None:
        """Saves the completed steps before the loop ends out of turn.

        One process of several that fails alone cannot: saving needs all of them, and
        the others are waiting inside a step.
        """
        if self.step > 0 and jax.process_count() == 1:
            self.save()
            self.run.checkpoints.wait()
            logging.warning("step %d is saved", self.step)

    def best_metric(self) -> dict[str, float]:
        """The logged value of checkpoint.best_metric at this step; {} without one."""
        policy = self.run.config.checkpoint
        row = self.writer.row(self.step) if policy.keep_best else {}
        return {name: row[name] for name in row if name == policy.best_metric}

    def roll_back(self) -> None:
        """Continues from the newest good checkpoint; skips the batches that failed."""
        bad = self.accumulator.skipped
        self.skipped = recovery.roll_back(self.run, self.skipped, bad)
        self.state, past = self.run.restore()
        step = int(self.state.step)
        self.accumulator.rewind(past["window"])
        self.writer.truncate_after(step, self.skipped.steps)
        self.bar.update(step - self.step)
        self.step = step
        self.batches.close()
        self.batches = self.run.make_batches(step, past["bad_records"])


@functools.cache
def warn_without_metric(metric: str) -> None:
    """Warns once that a saved step has no value of checkpoint.best_metric."""
    logging.warning(
        "checkpoint.keep_best cannot keep this step: no row of it has %s", metric
    )
