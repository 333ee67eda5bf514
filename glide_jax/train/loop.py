"""The training loop: fetch, step, log, validate, draw, save, stop."""

from __future__ import annotations

import contextlib
import logging
import pathlib
from collections.abc import Callable, Collection, Mapping

import jax
import numpy as np
from PIL import Image

from glide_jax import lifecycle, metrics, progress, shapes
from glide_jax.config import resolve
from glide_jax.config.defaults import Config
from glide_jax.errors import UserError
from glide_jax.parallel import distributed, sharding
from glide_jax.train import clock as clocks
from glide_jax.train import profiling, setup, speed
from glide_jax.train import state as states
from glide_jax.train import window as windows

# Updates skipped one after the other that end a run: float16 needs about twenty to find
# its loss scale. At the end of a run fewer tell that it came to nothing.
MAX_SKIPPED, MAX_SKIPPED_AT_END = 50, 10

# Draws a uint8 picture (H, W, 3) of what the averaged parameters make.
GridHook = Callable[[shapes.Params], np.ndarray]
MakeGridHook = Callable[[setup.Run], GridHook | None]


def train(
    config: Config,
    workdir: pathlib.Path,
    *,
    make_grid_hook: MakeGridHook | None = None,
    profile_steps: range = range(0),
    allow_change: Collection[str] = (),
) -> lifecycle.ExitCode:
    """Trains to train.num_steps; returns OK, or PREEMPTED after a signal.

    Called again on the same folder it goes on from the newest checkpoint. Of several
    processes all call it and go the same way; process 0 alone writes what is no state.
    The `profile_steps` are traced for TensorBoard's profiler into its `profile/`.

    Raises:
      UserError: a start that is refused (see `setup.prepare`), too much data that
        cannot be read (the steps made are saved), or a run that has diverged.
    """
    clock = clocks.Clock()
    metrics.check_wandb(config.log.wandb_project)
    run, state = setup.prepare(config, workdir, allow_change=allow_change)
    first, last = int(state.step), config.train.num_steps
    if first >= last:
        run.checkpoints.close()
        logging.info("already trained to step %d", first)
        return lifecycle.ExitCode.OK
    draw_grid = make_grid_hook(run) if make_grid_hook else None
    is_first_process = jax.process_index() == 0
    writer = metrics.MetricsWriter(workdir, config, enabled=is_first_process)
    # Read before the rows of lost steps are cut off: these have been paid for as well.
    device_hours = writer.last("speed/device_hours", default=0.0)
    # A fresh start writes its row of step 0 itself.
    writer.truncate_after(first or -1)
    window = windows.Window(clock, speed.Meter(config, device_hours))
    with (
        lifecycle.StopRequest(is_shared=distributed.is_joined()) as stop,
        progress.ProgressBar(
            last, config.name, initial=first, enabled=is_first_process
        ) as bar,
        profiling.Profiler(workdir / "profile", profile_steps) as profiler,
        contextlib.closing(run.checkpoints),
        contextlib.closing(writer),
    ):
        if first == 0 and run.validation:
            with window.pause("evaluation"):
                writer.scalars(0, validate(run, state))
        batches = run.make_batches(first)
        for step in range(first + 1, last + 1):
            try:
                with window.part("input_wait"):
                    batch = next(batches)
            except UserError:
                save_what_is_done(run, state, step - 1)
                raise
            with (
                profiler.step(step, state),
                window.part("compile" if step == first + 1 else "dispatch"),
            ):
                batch = sharding.to_global(batch, run.mesh)
                state, step_metrics, _ = run.train_step(state, batch)
            window.add(step_metrics)
            bar.update()
            # Everything below is due at its own interval, and all of it at the end.
            is_last = step == last
            is_stopping = distributed.stop_agreed(step, stop.requested) and not is_last
            row = {}
            if is_last or is_due(step, config.log.validate_every_steps):
                with window.pause("evaluation"):
                    row |= validate(run, state)
            if is_last or step == 1 or is_due(step, config.log.every_steps):
                row |= window.row(step)
                bar.note(loss=row["loss"])
                logging.info(speed.line(step, row))
            if row:
                writer.scalars(step, row)
                check_loss_scale(run, row, step)
                check_divergence(run, window.skipped_in_a_row, step, is_last=is_last)
            if draw_grid and (is_last or is_due(step, config.log.grid_every_steps)):
                with window.pause("evaluation"):
                    save_grid(run, draw_grid, state, writer, step)
            # Saved last, so that a step once saved has all of its rows and pictures.
            if is_last or is_stopping or is_due(step, config.checkpoint.every_steps):
                with window.pause("checkpoint"):
                    save(run, state, step, row)
            if is_stopping:
                run.checkpoints.wait()
                logging.warning("stopped by a signal; step %d is saved", step)
                return lifecycle.ExitCode.PREEMPTED
    return lifecycle.ExitCode.OK


def is_due(step: int, every_steps: int) -> bool:
    """Whether something done every N steps (0: never) is due after this one."""
    return every_steps > 0 and step % every_steps == 0


def validate(run: setup.Run, state: states.TrainState) -> dict[str, float]:
    """Metrics of the first average on held-out examples, as `validation/...`."""
    sums: dict[str, np.ndarray] = {}
    params = first_average(run, state)
    for batch in run.validation:
        found = run.eval_step(params, sharding.to_global(batch, run.mesh))
        for name, pair in jax.device_get(found).items():
            sums[name] = sums.get(name, 0.0) + np.asarray(pair, np.float64)
    return {
        f"validation/{name}": float(total / count)
        for name, (total, count) in sums.items()
        if count > 0
    }


def first_average(run: setup.Run, state: states.TrainState) -> shapes.Params:
    """The average that is validated and drawn, on the devices."""
    params = state.ema_params[str(run.config.ema.decays[0])]
    where = jax.tree.map(lambda leaf: leaf.sharding, params)
    return jax.device_put(params, sharding.on_devices(where))


def save_grid(
    run: setup.Run,
    draw_grid: GridHook,
    state: states.TrainState,
    writer: metrics.MetricsWriter,
    step: int,
) -> None:
    """Draws the fixed-seed grid of the first average; all processes draw it."""
    picture = draw_grid(first_average(run, state))
    if jax.process_index() != 0:
        return
    writer.image(step, "grid", picture)
    folder = run.workdir / "grids"
    folder.mkdir(exist_ok=True)
    Image.fromarray(picture).save(folder / f"{step:08d}.png")


def save(
    run: setup.Run,
    state: states.TrainState,
    step: int,
    row: Mapping[str, float] | None = None,
) -> None:
    """Writes a checkpoint, with the digests of what lies once in the workdir.

    What the metrics' `row` of the step says of checkpoint.best_metric goes along.
    """
    best = run.config.checkpoint.best_metric
    metrics = {best: row[best]} if row and best in row else {}
    meta = {
        "config_digest": resolve.digest(run.config),
        "tokenizer_digest": run.tokenizer.digest(),
    }
    run.checkpoints.save(step, states.to_items(state), meta, metrics)


def save_what_is_done(run: setup.Run, state: states.TrainState, step: int) -> None:
    """Writes a checkpoint of the steps made before the data could not be read.

    One process of several that fails alone cannot: saving takes all of them, and the
    others are waiting inside a step.
    """
    if step > 0 and jax.process_count() == 1:
        save(run, state, step)
        run.checkpoints.wait()
        logging.warning("step %d is saved", step)


def check_loss_scale(run: setup.Run, row: Mapping[str, float], step: int) -> None:
    """Raises UserError where a gradient overflowed that could be scaled no lower."""
    if not row.get("overflows_at_floor"):
        return
    run.checkpoints.wait()
    floor = run.config.train.min_log2_loss_scale
    raise UserError(
        f"at step {step} float16 gradients overflow with the loss scale at its floor, "
        f"train.min_log2_loss_scale={floor:g}; go on with a lower optim.learning_rate, "
        "or start anew with model.compute_dtype=bfloat16"
    )


def check_divergence(
    run: setup.Run, skipped_in_a_row: int, step: int, *, is_last: bool
) -> None:
    """Raises UserError where the newest updates were all skipped, `step` included."""
    if skipped_in_a_row < (MAX_SKIPPED_AT_END if is_last else MAX_SKIPPED):
        return
    first = step - skipped_in_a_row + 1
    run.checkpoints.wait()
    stored = run.checkpoints.steps()
    good = [saved for saved in stored if saved < first]
    remedy = "no checkpoint is older; start anew"
    if good:
        folder = run.checkpoints.directory
        remedy = f"the last checkpoint before is {folder / str(good[-1])}; go on there"
        later = [str(saved) for saved in stored if saved >= first]
        if later:
            remedy += f" (after removing {', '.join(later)})"
    raise UserError(
        f"the run has diverged: no gradient of steps {first} to {step} was finite, so "
        f"they changed nothing; {remedy} with a lower optim.learning_rate than "
        f"{run.config.optim.learning_rate:g}"
    )
