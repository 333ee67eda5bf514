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

from glide_jax import lifecycle, metrics, progress
from glide_jax.config import resolve
from glide_jax.config.defaults import Config
from glide_jax.data import fault, pipeline, sources
from glide_jax.errors import UserError
from glide_jax.parallel import distributed, sharding
from glide_jax.train import (
    bad_records,
    divergence,
    profiling,
    rewind,
    setup,
    speed,
    waiting,
    watchdog,
)
from glide_jax.train import clock as clocks
from glide_jax.train import looks as looking
from glide_jax.train import state as states
from glide_jax.train import window as windows
from glide_jax.train import workdir as workdirs


def train(
    config: Config,
    workdir: pathlib.Path,
    *,
    make_grid_hook: looking.MakeGridHook | None = None,
    make_evaluation_hook: looking.MakeEvaluationHook | None = None,
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
        watchdog.Watchdog(config.train, workdir, stop) as dog,
        workdirs.sole_writer(workdir, config.train, stop.check) as check_writer,
    ):
        clock = clocks.Clock()
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
            writer: metrics.MetricsWriter, window: windows.Window
        ) -> looking.Looks:
            return looking.Looks(
                run, writer, window, make_grid_hook, is_stopping, make_evaluation_hook
            )

        return _train(run, state, clock, make_looks, profile_steps, is_stopping, stop)


def _train(
    run: setup.Run,
    state: states.TrainState,
    clock: clocks.Clock,
    make_looks: Callable[[metrics.MetricsWriter, windows.Window], looking.Looks],
    profile_steps: range,
    is_stopping: Callable[[], bool],
    stop: lifecycle.StopRequest,
) -> lifecycle.ExitCode:
    """Continues from `state` until the last step or a signal."""
    config, workdir = run.config, run.workdir
    step, last = int(state.step), config.train.num_steps
    is_first_process = jax.process_index() == 0
    writer = metrics.MetricsWriter(workdir, config, enabled=is_first_process)
    # Read before the rows of lost steps are removed, whose device hours count as well.
    device_hours = writer.last("speed/device_hours", default=0.0)
    # A fresh start writes its row of step 0 itself.
    passed_over = rewind.load(run.past, workdir)
    writer.truncate_after(step or -1, passed_over.steps)
    writer.make_up_for(run.past.get("unwritten", []))
    meter = speed.Meter(config, device_hours)
    window = windows.Window(clock, meter, on_skipped=divergence.make_on_skipped(writer))
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

    run: setup.Run
    writer: metrics.MetricsWriter
    window: windows.Window
    looks: looking.Looks
    profiler: profiling.Profiler
    bar: progress.ProgressBar
    is_stopping: Callable[[], bool]
    stop: lifecycle.StopRequest  # checked between polls while waiting for data
    has_warned_of_input: bool = False

    def go_on(
        self, state: states.TrainState, step: int, passed_over: rewind.PassedOver
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
                    batch = waiting.next_batch(batches, self.stop)
            except waiting.StoppedError:
                self.save_what_is_done(state, step - 1, batches, passed_over)
                waiting.leave(batches)
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
                passed_over = rewind.go_back(run, passed_over, window.skipped)
                state, step, batches = self.restore(step, passed_over)
                continue
            run.check_writer()
            # Everything below has its own interval, and is all due at the end.
            if step in (1, last) or looking.is_due(step, config.log.every_steps):
                self.write_row(step, batches)
            if looking.is_due(step, config.train.check_replicas_every_steps):
                divergence.check_replicas(state, step)
            self.looks.make_due(state, step)
            if self.writer.failure:
                self.save_what_is_done(state, step, batches, passed_over)
                raise UserError(self.writer.failure)
            # Saved last, so that a saved step has all of its rows and images, except
            # those that a signal interrupted.
            is_over = self.is_stopping()
            every = config.checkpoint.every_steps
            if is_over or step == last or looking.is_due(step, every):
                with window.pause("checkpoint"):
                    self.save(state, step, batches, passed_over)
        return step

    def write_row(self, step: int, batches: pipeline.Batches) -> None:
        """Writes the metrics since the last row; raises if the run has diverged."""
        row = self.window.row(step) | fault.metrics(self.count_bad(batches))
        self.run.check_writer()
        if "loss" in row:
            self.bar.note(loss=row["loss"])
        logging.info(speed.line(step, row))
        warning = speed.input_warning(self.run.config, row)
        if warning and not self.has_warned_of_input:
            self.has_warned_of_input = True
            logging.warning(warning)
        self.writer.scalars(step, row)
        divergence.check_loss_scale(self.run.config, row, step)
        if step == self.run.config.train.num_steps:
            divergence.check_end(self.run.config, self.window.skipped_in_a_row)

    def check_writes(self) -> None:
        """Raises if too many checkpoints in a row could not be written.

        A failure is logged at once, and the write is retried when the next is due.
        """
        failure = self.run.checkpoints.poll()
        if (
            failure
            and self.run.checkpoints.failures_in_a_row >= workdirs.MAX_FAILED_WRITES
        ):
            before = workdirs.MAX_FAILED_WRITES - 1
            raise UserError(f"{failure} (and so did the {before} before it)")

    def count_bad(self, batches: pipeline.Batches) -> dict[str, Any]:
        """Unusable records of all processes so far."""
        return bad_records.total(batches.faults, self.run.part)

    def save(
        self,
        state: states.TrainState,
        step: int,
        batches: pipeline.Batches,
        passed_over: rewind.PassedOver,
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
        metrics.sync(bad_records.log_path(self.run.workdir))
        judged = self.judged(step)
        if self.run.config.checkpoint.keep_best and not judged:
            tell_unjudged(self.run.config.checkpoint.best_metric)
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
        state: states.TrainState,
        step: int,
        batches: pipeline.Batches,
        passed_over: rewind.PassedOver,
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
        self, step: int, passed_over: rewind.PassedOver
    ) -> tuple[states.TrainState, int, pipeline.Batches]:
        """The newest checkpoint's state, step and batches; discards later rows."""
        state, past = self.run.restore()
        back_to = int(state.step)
        self.window.rewind(past["window"])
        self.writer.truncate_after(back_to, passed_over.steps)
        self.bar.update(back_to - step)
        return state, back_to, self.run.make_batches(back_to, past["bad_records"])


def save(
    run: setup.Run,
    state: states.TrainState,
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
    items = states.to_items(state)
    run.checkpoints.save(step, items, meta, judged or {}, bad_from=bad_from)


@functools.cache
def tell_unjudged(metric: str) -> None:
    """Warns once of a saved step that has no metric for checkpoint.keep_best."""
    logging.warning(
        "no row of the step that is saved has %s: checkpoint.keep_best keeps none such",
        metric,
    )
