"""Evaluations during training: metrics of samples from the averaged parameters.

The features of a step's samples are kept in WORKDIR/evaluations/STEP.parts until the
metrics are written. An evaluation that is interrupted therefore resumes where it
stopped: a resumed run has the same averaged parameters, bit for bit.
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
    metric_needs,
    metrics,
    picture_sets,
    reference_files,
    runner,
)
from glide_jax.hooks import sample_grids
from glide_jax.parallel import device_mesh, distributed
from glide_jax.train import batches, periodic_eval, setup

# The result on processes that write neither rows nor images.
_NOTHING: periodic_eval.Evaluated = ({}, np.zeros((1, 1, 3), np.uint8), lambda: None)


def make(run: setup.TrainingRun) -> periodic_eval.EvaluationHook | None:
    """The evaluation hook of a run; None if evaluate.every_steps is 0.

    Raises:
      UserError: features or a reference that cannot be read, or that do not fit each
        other or the model's image size; a batch that the mesh does not divide.
    """
    return _Evaluation(run) if run.config.evaluate.every_steps else None


class Inputs(NamedTuple):
    """Inputs of evaluations other than the data.

    Attributes:
      extractor: the network of evaluate.features, on this process's default device,
        which holds the samples.
      reference: the statistics of evaluate.reference.
      names: names of the metrics that can be computed.
    """

    extractor: extractors.Extractor
    reference: reference_files.Reference
    names: list[str]


def read_inputs(config: Config, mesh: Mesh) -> Inputs:
    """Reads the inputs of a run's evaluations, also for a dry run.

    Raises:
      UserError: see `make`.
    """
    settings = config.evaluate
    device_mesh.check_batch(settings.batch_size, mesh, path="evaluate.batch_size")
    extractor = extractors.load(settings.features)
    reference = reference_files.read(
        settings.reference, extractor, config.model.image_px
    )
    have = metric_needs.available(
        extractor,
        reference,
        None,
        has_clip=False,
        batch_size=settings.batch_size,
    )
    return Inputs(extractor, reference, metric_needs.choose([], have))


class _Evaluation:
    """Samples held-out captions in batches; process 0 extracts their features."""

    def __init__(self, run: setup.TrainingRun):
        self._run, self._settings = run, run.config.evaluate
        inputs = read_inputs(run.config, run.mesh)
        self._extractor, self._reference, self._names = inputs
        source = batches.open_sources(run.config)[1]
        assert source is not None  # `validate` requires data.validation_sources
        self._source = source
        self._draw = sample_grids.make_draw(
            run, self._settings.guidance_scale, run.mesh
        )
        self._calls = itertools.count()  # a rollback evaluates a step again

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
        """Opens the feature cache on process 0; all processes get its next index."""
        kept = None
        if jax.process_index() == 0:
            settings = {
                **dataclasses.asdict(self._settings),
                "features": runner.describe(self._extractor),
            }
            folder = self._run.workdir / "evaluations" / f"{step:08d}.parts"
            kept = feature_cache.FeatureCache(folder, settings)
        next_index = 0 if kept is None else kept.next_index
        first = distributed.from_first(
            f"evaluation/{next(self._calls)}", lambda: str(next_index).encode()
        )
        return kept, int(first)

    def _next_batch(
        self, params: array_types.Params, first: int
    ) -> picture_sets.PictureBatch:
        """Returns samples from index `first` on.

        The last batch is sampled whole, so that one program serves all.
        """
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
