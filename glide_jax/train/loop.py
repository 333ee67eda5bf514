"""The training loop: fetch, step, log, evaluate, save, stop."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax

from glide_jax.config import resolve
from glide_jax.config.defaults import Config
from glide_jax.data import bad_records, pipeline, sources
from glide_jax.errors import UserError
from glide_jax.parallel import distributed, sharding
from glide_jax.runtime import lifecycle, metric_writers, progress
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
        run writes to or has taken over (see `workdir.sole_writer`), too much unreadable
        data, or metrics that cannot be written (completed steps are saved, unless one
        process of several fails alone).
      DivergedError: too many skipped updates.
      StoppedError: a signal was received before there was a state to save.
    """
    with (
        lifecycle.StopRequest(is_shared=distributed.is_joined()) as stop,
        recovery.Watchdog(config.train, workdir, stop) as dog,
        run_folder.sole_writer(workdir, config.train, stop.check) as check_writer,
    ):
        clock = run_log.StepTimer()
        run, state = setup.prepare(
            config,
            workdir,
            allow_change=allow_change,
            check_stop=stop.check,
            check_writer=check_writer,
        )
        stop.check()
        dog.beat()
        poll = distributed.StopPoll(stop)

        def is_stopping() -> bool:
            dog.beat()
            if poll():
                dog.expect_end()
            return poll.is_stopping

        def make_looks(
            writer: metric_writers.MetricsWriter, window: run_log.MetricAccumulator
        ) -> periodic_eval.PeriodicEval:
            return periodic_eval.PeriodicEval(
                run, writer, window, make_grid_hook, is_stopping, make_evaluation_hook
            )

        return _train(run, state, clock, make_looks, profile_steps, is_stopping, stop)


def _train(
    run: setup.TrainingRun,
    state: train_state.TrainState,
    clock: run_log.StepTimer,
    make_looks: Callable[
        [metric_writers.MetricsWriter, run_log.MetricAccumulator],
        periodic_eval.PeriodicEval,
    ],
    profile_steps: range,
    is_stopping: Callable[[], bool],
    stop: lifecycle.StopRequest,
) -> lifecycle.ExitCode:
    """Continues from `state` until the last step or a signal."""
    config, workdir = run.config, run.workdir
    step, last = int(state.step), config.train.num_steps
    is_first_process = jax.process_index() == 0
    writer = metric_writers.MetricsWriter(workdir, config, enabled=is_first_process)
    # Read before the rows of lost steps are removed, whose device hours count as well.
    device_hours = writer.last("speed/device_hours", default=0.0)
    # A fresh start writes its row of step 0 itself.
    passed_over = recovery.load(run.past, workdir)
    writer.truncate_after(step or -1, passed_over.steps)
    writer.make_up_for(run.past.get("unwritten", []))
    meter = run_log.Throughput(config, device_hours)
    window = run_log.MetricAccumulator(
        clock, meter, on_skipped=recovery.make_on_skipped(writer)
    )
    window.rewind(run.past.get("window", {}))
    with (
        progress.ProgressBar(
            last, config.name, initial=step, enabled=is_first_process
        ) as bar,
        profiling.Profiler(workdir / "profile", profile_steps) as profiler,
        contextlib.closing(run.checkpoints),
        contextlib.closing(writer),
    ):
        looks = make_looks(writer, window)
        missing = looks.missing(step)
        if step >= last and not missing:
            logging.info("already trained to step %d", step)
            return lifecycle.ExitCode.OK
        looks.make(missing, state, step)
        loop = Loop(run, writer, window, looks, profiler, bar, is_stopping, stop)
        if missing and step:
            run.checkpoints.judge(step, loop.judged(step))
        # Checked before the first step is compiled, which may take minutes.
        if not (looks.are_cut_off or is_stopping()):
            step = loop.go_on(state, step, passed_over)
        run.checkpoints.wait()
    if step < last or looks.are_cut_off:
        told = f"step {step} is saved" if step else "before the first step"
        logging.warning("stopped by a signal; %s", told)
        return lifecycle.ExitCode.PREEMPTED
    return lifecycle.ExitCode.OK


@dataclasses.dataclass
class Loop:
    """Runs the steps of a run."""

    run: setup.TrainingRun
    writer: metric_writers.MetricsWriter
    window: run_log.MetricAccumulator
    looks: periodic_eval.PeriodicEval
    profiler: profiling.Profiler
    bar: progress.ProgressBar
    is_stopping: Callable[[], bool]
    stop: lifecycle.StopRequest  # checked between polls while waiting for data
    has_warned_of_input: bool = False

    def go_on(
        self,
        state: train_state.TrainState,
        step: int,
        passed_over: recovery.SkippedBatches,
    ) -> int:
        """Runs and saves steps from `step` on; returns the last one."""
        run, window, config = self.run, self.window, self.run.config
        last = config.train.num_steps
        batches = run.make_batches(step, run.past.get("bad_records", {}))
        part = "compile"
        is_over = False
        while not is_over and step < last:
            step += 1
            try:
                with window.part("input_wait"):
                    batch = recovery.next_batch(batches, self.stop)
            except recovery.StoppedError:
                self.save_what_is_done(state, step - 1, batches, passed_over)
                recovery.leave(batches)
                return step - 1
            except UserError:
                self.save_what_is_done(state, step - 1, batches, passed_over)
                raise
            if step in passed_over.steps:
                state = run.pass_over(state)
                window.pass_over()
            else:
                with self.profiler.step(step, state), window.part(part):
                    batch = sharding.to_global(batch, run.mesh)
                    state, step_metrics, details = run.train_step(
                        state, batch, run.seed
                    )
                window.add(step, step_metrics, details)
                part = "dispatch"
            self.bar.update()
            self.check_writes()
            if window.skipped_in_a_row >= config.train.max_skipped_in_a_row:
                passed_over = recovery.go_back(run, passed_over, window.skipped)
                state, step, batches = self.restore(step, passed_over)
                continue
            run.check_writer()
            # Everything below has its own interval, and is all due at the end.
            if step in (1, last) or periodic_eval.is_due(step, config.log.every_steps):
                self.write_row(step, batches)
            if periodic_eval.is_due(step, config.train.check_replicas_every_steps):
                recovery.check_replicas(state, step)
            self.looks.make_due(state, step)
            if self.writer.failure:
                self.save_what_is_done(state, step, batches, passed_over)
                raise UserError(self.writer.failure)
            # Saved last, so that a saved step has all of its rows and images, except
            # those that a signal interrupted.
            is_over = self.is_stopping()
            every = config.checkpoint.every_steps
            if is_over or step == last or periodic_eval.is_due(step, every):
                with window.pause("checkpoint"):
                    self.save(state, step, batches, passed_over)
        return step

    def write_row(self, step: int, batches: pipeline.Batches) -> None:
        """Writes the metrics since the last row; raises if the run has diverged."""
        row = self.window.row(step) | bad_records.metrics(self.count_bad(batches))
        self.run.check_writer()
        if "loss" in row:
            self.bar.note(loss=row["loss"])
        logging.info(run_log.line(step, row))
        warning = run_log.input_warning(self.run.config, row)
        if warning and not self.has_warned_of_input:
            self.has_warned_of_input = True
            logging.warning(warning)
        self.writer.scalars(step, row)
        recovery.check_loss_scale(self.run.config, row, step)
        if step == self.run.config.train.num_steps:
            recovery.check_end(self.run.config, self.window.skipped_in_a_row)

    def check_writes(self) -> None:
        """Raises if too many checkpoints in a row could not be written.

        A failure is logged at once, and the write is retried when the next is due.
        """
        failure = self.run.checkpoints.poll()
        if (
            failure
            and self.run.checkpoints.failures_in_a_row >= run_folder.MAX_FAILED_WRITES
        ):
            before = run_folder.MAX_FAILED_WRITES - 1
            raise UserError(f"{failure} (and so did the {before} before it)")

    def count_bad(self, batches: pipeline.Batches) -> dict[str, Any]:
        """Unusable records of all processes so far."""
        return run_log.total(batches.faults, self.run.part)

    def save(
        self,
        state: train_state.TrainState,
        step: int,
        batches: pipeline.Batches,
        passed_over: recovery.SkippedBatches,
    ) -> None:
        """Writes a checkpoint, including the counters of a resumed run."""
        counts = {
            "window": self.window.sums(),
            "bad_records": self.count_bad(batches),
            "passed_over": passed_over.as_json(),
        }
        # Rows of a step must be as durable as the step.
        if self.writer.failure:
            counts["unwritten"] = self.writer.unwritten
        else:
            self.writer.sync()
        metric_writers.sync(run_log.log_path(self.run.workdir))
        judged = self.judged(step)
        if self.run.config.checkpoint.keep_best and not judged:
            warn_unevaluated(self.run.config.checkpoint.best_metric)
        # A streak of skipped updates may not be over, but a rewind needs its start.
        skipped = self.window.skipped
        save(self.run, state, step, counts, judged, skipped[0] if skipped else None)

    def judged(self, step: int) -> dict[str, float]:
        """The logged metric of a step that checkpoint.keep_best compares."""
        policy = self.run.config.checkpoint
        row = self.writer.row(step) if policy.keep_best else {}
        return {name: row[name] for name in row if name == policy.best_metric}

    def save_what_is_done(
        self,
        state: train_state.TrainState,
        step: int,
        batches: pipeline.Batches,
        passed_over: recovery.SkippedBatches,
    ) -> None:
        """Writes a checkpoint of the steps completed before data or metrics failed.

        One process of several that fails alone cannot: saving needs all of them, and
        the others are waiting inside a step.
        """
        if step > 0 and jax.process_count() == 1:
            self.save(state, step, batches, passed_over)
            self.run.checkpoints.wait()
            logging.warning("step %d is saved", step)

    def restore(
        self, step: int, passed_over: recovery.SkippedBatches
    ) -> tuple[train_state.TrainState, int, pipeline.Batches]:
        """The newest checkpoint's state, step and batches; discards later rows."""
        state, past = self.run.restore()
        back_to = int(state.step)
        self.window.rewind(past["window"])
        self.writer.truncate_after(back_to, passed_over.steps)
        self.bar.update(back_to - step)
        return state, back_to, self.run.make_batches(back_to, past["bad_records"])


def save(
    run: setup.TrainingRun,
    state: train_state.TrainState,
    step: int,
    counts: Mapping[str, Any],
    judged: Mapping[str, float] | None = None,
    bad_from: int | None = None,
) -> None:
    """Writes a checkpoint: state, settings, and counters since the last row.

    `judged` holds the metrics for checkpoint.keep_best; the newest checkpoint before
    `bad_from` is kept.
    """
    meta = {
        "config": json.loads(resolve.to_json(run.config)),
        "tokenizer_digest": run.tokenizer.digest(),
        "records": run.num_records,
        "data_order": sources.ORDER_VERSION,
        **counts,
    }
    items = train_state.to_items(state)
    run.checkpoints.save(step, items, meta, judged or {}, bad_from=bad_from)


@functools.cache
def warn_unevaluated(metric: str) -> None:
    """Warns once of a saved step that has no metric for checkpoint.keep_best."""
    logging.warning(
        "no row of the step that is saved has %s: checkpoint.keep_best keeps none such",
        metric,
    )
