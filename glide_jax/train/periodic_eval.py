"""Periodic outputs of a run: validation losses, sample grids, evaluations.

An output that a signal interrupts is produced on resumption, before the next step.
"""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Callable, Mapping

import jax
import numpy as np
from PIL import Image

from glide_jax import array_types
from glide_jax.parallel import distributed, sharding
from glide_jax.runtime import files, metric_writers
from glide_jax.train import run_log, setup, train_state

# Samples from the averaged parameters and returns a uint8 image (H, W, 3).
GridHook = Callable[[array_types.Params], np.ndarray]
MakeGridHook = Callable[[setup.TrainingRun], GridHook | None]
# Metrics of samples from the averaged parameters at a step, some of the images
# (H, W, 3), and a callback for when these are written; None if the given function,
# called between batches, requests a stop.
Evaluated = tuple[dict[str, float], np.ndarray, Callable[[], None]]
EvaluationHook = Callable[
    [array_types.Params, int, Callable[[], bool]], Evaluated | None
]
MakeEvaluationHook = Callable[[setup.TrainingRun], EvaluationHook | None]


def is_due(step: int, every_steps: int) -> bool:
    """Whether something done every N steps (0: never) is due after this one."""
    return every_steps > 0 and step % every_steps == 0


class PeriodicEval:
    """Runs the validation, grids and evaluations that are due.

    Attributes:
      are_cut_off: whether a signal interrupted some of them.
    """

    def __init__(
        self,
        run: setup.TrainingRun,
        writer: metric_writers.MetricsWriter,
        accumulator: run_log.MetricAccumulator,
        make_grid_hook: MakeGridHook | None,
        is_stopping: Callable[[], bool],
        make_evaluation_hook: MakeEvaluationHook | None = None,
    ) -> None:
        self._run, self._writer, self._accumulator = run, writer, accumulator
        self._draw = make_grid_hook(run) if make_grid_hook else None
        self._compute = make_evaluation_hook(run) if make_evaluation_hook else None
        self._is_stopping = is_stopping
        self.are_cut_off = False

    def missing(self, step: int) -> list[str]:
        """Outputs of a step that its rows and images lack; called once."""

        def find() -> bytes:
            found = self._writer.names(step)
            has = {
                "validation": any(name.startswith("validation/") for name in found),
                "grid": self._picture_path("grids", step).exists(),
                "evaluation": any(name.startswith("evaluation/") for name in found),
            }
            return json.dumps([n for n in self._due(step) if not has[n]]).encode()

        return json.loads(distributed.from_first("missing evaluations", find))

    def make_due(self, state: train_state.TrainState, step: int) -> None:
        """Produces the outputs that are due after a step."""
        self.make(self._due(step), state, step)

    def make(self, names: list[str], state: train_state.TrainState, step: int) -> None:
        """Produces the named outputs, until a stop is requested."""
        makers = {
            "validation": self._validate,
            "grid": self._draw_grid,
            "evaluation": self._evaluate,
        }
        for name in names:
            if not self.are_cut_off:
                with self._accumulator.pause("evaluation"):
                    self.are_cut_off = not makers[name](state, step)

    def _due(self, step: int) -> list[str]:
        log, is_last = self._run.config.log, step == self._run.config.train.num_steps
        due = []
        every = log.validate_every_steps
        if self._run.validation and (step == 0 or is_last or is_due(step, every)):
            due.append("validation")
        if self._draw and step and (is_last or is_due(step, log.grid_every_steps)):
            due.append("grid")
        every = self._run.config.evaluate.every_steps
        if self._compute and step and (is_last or is_due(step, every)):
            due.append("evaluation")
        return due

    def _validate(self, state: train_state.TrainState, step: int) -> bool:
        """Validates the first average on held-out examples; False if interrupted."""
        run = self._run
        sums: dict[str, np.ndarray] = {}
        # A network that trains beside the model has no average.
        params = {**state.params, **first_average(run, state)}
        for batch in run.validation:
            if self._is_stopping():
                return False
            found = run.eval_step(params, sharding.to_global(batch, run.mesh), run.seed)
            for name, pair in jax.device_get(found).items():
                sums[name] = sums.get(name, 0.0) + np.asarray(pair, np.float64)
        row = {
            f"validation/{name}": float(total / count)
            for name, (total, count) in sums.items()
            if count > 0
        }
        self._writer.scalars(step, row)
        logging.info(_line(step, "validation", row))
        return True

    def _draw_grid(self, state: train_state.TrainState, step: int) -> bool:
        """Samples the fixed-seed grid of the first average, on all processes."""
        if self._is_stopping():
            return False
        assert self._draw is not None  # see `_due`
        picture = self._draw(first_average(self._run, state))
        self._save_picture("grid", "grids", step, picture)
        return True

    def _evaluate(self, state: train_state.TrainState, step: int) -> bool:
        """Evaluates samples of the first average; logs metrics and some images."""
        params = first_average(self._run, state)
        assert self._compute is not None  # see `_due`
        found = self._compute(params, step, self._is_stopping)
        if found is None:
            return False
        metrics, picture, discard = found
        # The row is written last: if it exists, so does the image.
        self._save_picture("evaluation", "evaluations", step, picture)
        row = {f"evaluation/{name}": value for name, value in metrics.items()}
        self._writer.scalars(step, row)
        logging.info(_line(step, "evaluation", row))
        discard()
        return True

    def _save_picture(
        self, name: str, folder: str, step: int, picture: np.ndarray
    ) -> None:
        if jax.process_index() == 0:
            self._writer.image(step, name, picture)
            path = self._picture_path(folder, step)
            path.parent.mkdir(exist_ok=True)
            with files.scratch(path) as draft:
                Image.fromarray(picture).save(draft, format="PNG")
            logging.info("step %d: %s saved to %s", step, name, path)

    def _picture_path(self, folder: str, step: int) -> pathlib.Path:
        return self._run.workdir / folder / f"{step:08d}.png"


def _line(step: int, group: str, row: Mapping[str, float]) -> str:
    """The metrics of a group as one line, without those by timestep quartile."""
    parts = [
        f"{name.removeprefix(f'{group}/')} {value:.4g}"
        for name, value in row.items()
        if not name[:-1].endswith("_q")
    ]
    return f"step {step}: {group} {', '.join(parts)}"


def first_average(
    run: setup.TrainingRun, state: train_state.TrainState
) -> array_types.Params:
    """The average used for validation and sampling, on the devices."""
    params = state.ema_params[str(run.config.ema.decays[0])]
    where = jax.tree.map(lambda leaf: leaf.sharding, params)
    return jax.device_put(params, sharding.on_devices(where))
