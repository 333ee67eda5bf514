"""Evaluations during training: the other place where train/ and sample/ meet.

What was seen of a step's pictures lies in WORKDIR/evaluations/STEP.parts until the
figures are written, so that an evaluation that is cut off goes on where it was: the
step's averaged parameters are the same to the bit when the run goes on.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from glide_jax import array_types
from glide_jax.config.defaults import Config
from glide_jax.data import pipeline
from glide_jax.eval import (
    extractors,
    feature_cache,
    feature_passes,
    metrics,
    picture_sets,
    reference_files,
    runner,
)
from glide_jax.hooks import sample_grids
from glide_jax.parallel import device_mesh, distributed
from glide_jax.train import batches, periodic_eval, setup

# Of processes that write neither rows nor pictures.
_NOTHING: periodic_eval.Evaluated = ({}, np.zeros((1, 1, 3), np.uint8), lambda: None)


def make(run: setup.TrainingRun) -> periodic_eval.EvaluationHook | None:
    """A function from averaged parameters to figures; None where none are asked for.

    Raises:
      UserError: Features or a reference that cannot be read, or do not belong
          together or to the model's pictures; a batch that the mesh does not divide.
    """
    return _Evaluation(run) if run.config.evaluate.every_steps else None


class Inputs(NamedTuple):
    """What evaluations read beside the data.

    Attributes:
      extractor: of evaluate.features, on this process's default device: the pictures
        are there already.
      reference: of evaluate.reference.
      names: of the figures that can be computed.
    """

    extractor: extractors.Extractor
    reference: reference_files.Reference
    names: list[str]


def read_inputs(config: Config, mesh: Mesh) -> Inputs:
    """The inputs of the evaluations of a run; a start and a dry run read them.

    Raises:
      UserError: see `make`.
    """
    settings = config.evaluate
    device_mesh.check_batch(settings.batch_size, mesh, path="evaluate.batch_size")
    extractor = extractors.load(settings.features)
    reference = reference_files.read(
        settings.reference, extractor, config.model.image_px
    )
    have = metrics.available(
        extractor,
        reference,
        None,
        has_clip=False,
        batch_size=settings.batch_size,
    )
    return Inputs(extractor, reference, metrics.choose([], have))


class _Evaluation:
    """Draws held-out captions batch after batch; process 0 looks at the pictures."""

    def __init__(self, run: setup.TrainingRun):
        self._run, self._settings = run, run.config.evaluate
        inputs = read_inputs(run.config, run.mesh)
        self._extractor, self._reference, self._names = inputs
        self._source = batches.open_sources(run.config)[1]
        self._draw = sample_grids.make_draw(
            run, self._settings.guidance_scale, run.mesh
        )
        self._calls = itertools.count()  # a run that goes back evaluates a step anew

    def __call__(
        self, params: array_types.Params, step: int, is_stopping: Callable[[], bool]
    ) -> periodic_eval.Evaluated | None:
        kept, first = self._open_parts(step)
        judges = feature_passes.Networks(self._extractor, keep_pixels=runner.GRID)
        while first < self._settings.num_images:
            if is_stopping():
                return None
            shown = self._next_batch(params, first)
            first += len(shown.indices)
            if kept is not None:
                kept.commit(first, feature_passes.extract(shown, judges))
        return _NOTHING if kept is None else self._conclude(kept)

    def _open_parts(self, step: int) -> tuple[feature_cache.FeatureCache | None, int]:
        """What process 0 has kept, None in the others; all begin where it ended."""
        kept = None
        if jax.process_index() == 0:
            settings = {
                **dataclasses.asdict(self._settings),
                "features": runner.describe(self._extractor),
            }
            folder = self._run.workdir / "evaluations" / f"{step:08d}.parts"
            kept = feature_cache.FeatureCache(folder, settings)
        first = distributed.from_first(
            f"evaluation/{next(self._calls)}", lambda: str(kept.next_index).encode()
        )
        return kept, int(first)

    def _next_batch(
        self, params: array_types.Params, first: int
    ) -> picture_sets.PictureBatch:
        """Pictures from `first` on; the last batch is drawn whole, for one program."""
        config, size = self._run.config, self._settings.batch_size
        stop = min(first + size, self._settings.num_images)
        batch = pipeline.fixed_batch(
            self._source,
            self._run.tokenizer,
            batches.row_settings(config),
            [i % len(self._source) for i in range(first + size)],
            rows=range(first, first + size),
        )
        drawn = self._draw(params, batch, np.arange(first, first + size))
        indices = np.arange(first, stop, dtype=np.int64)
        return picture_sets.PictureBatch(indices, drawn[: len(indices)], None)

    def _conclude(self, kept: feature_cache.FeatureCache) -> periodic_eval.Evaluated:
        found = metrics.compute(
            kept,
            self._names,
            extractor=self._extractor.name,
            reference=self._reference,
        )
        for line in found.warnings:
            logging.info(line)
        return found.metrics, runner.grid(kept), kept.remove
