"""The data of a run: its sources, and its batches as configured."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from glide_jax.config.defaults import Config, Text2ImConfig
from glide_jax.data import bad_records, picture_cache, pipeline, schema, sources
from glide_jax.runtime import paths, wording
from glide_jax.text import tokenizers
from glide_jax.train import run_folder, run_log


def open_sources(config: Config) -> tuple[schema.Source, schema.Source | None]:
    """Opens the training source, and the validation source if there is one.

    Raises:
      UserError: a source is missing or has the wrong content.
    """
    data = config.data
    source = sources.open_mixture(data.sources, data.weights)
    if not data.validation_sources:
        return source, None
    weights = (1.0,) * len(data.validation_sources)
    return source, sources.open_mixture(
        data.validation_sources, weights, split="validation"
    )


def row_settings(config: Config) -> pipeline.RowSettings:
    """The rows of fixed batches: without flips and without the picture cache."""
    model = config.model
    is_text2im = isinstance(model, Text2ImConfig)
    return pipeline.RowSettings(
        image_px=model.image_px,
        text_context=model.text_context,
        seed=config.seed,
        low_res_px=model.low_res_px if is_text2im else 0,
        low_res_corruption=config.data.low_res_corruption,
        low_res_corruption_strength=config.data.low_res_corruption_strength,
        inpaint=is_text2im and model.inpaint,
    )


def check_cache(config: Config, source: schema.Source) -> None:
    """Logs how large data.cache_dir may grow; nothing is written.

    Raises:
      UserError: it cannot be written.
    """
    cache = _cache(config)
    if cache is None:
        return
    folder = cache.folder.parent
    run_folder.check_writable(folder, flag="data.cache_dir")
    size = picture_cache.bytes_of(len(source), config.model.image_px)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    logging.log(
        logging.WARNING if size > free else logging.INFO,
        "data.cache_dir=%s holds up to %s MiB of this data (%s of %d px); its disk has "
        "%s MiB free",
        config.data.cache_dir,
        f"{size / 2**20:,.1f}",
        wording.counted(len(source), "picture"),
        config.model.image_px,
        f"{free / 2**20:,.0f}",
    )


def _cache(config: Config) -> picture_cache.PictureCache | None:
    if not config.data.cache_dir:
        return None
    folder = paths.local_path(config.data.cache_dir, "data.cache_dir")
    return picture_cache.PictureCache(folder, config.model.image_px)


def make_batches(
    config: Config,
    workdir: pathlib.Path,
    source: schema.Source,
    tokenizer: tokenizers.Tokenizer,
    part: tuple[int, int],
    start_step: int,
    faults_before: Mapping[str, Any],
) -> pipeline.Batches:
    """The batches of a run after `start_step`, for this process.

    Args:
      config: configuration of the run.
      workdir: folder of the run, in which unusable records are logged.
      source: the training data.
      tokenizer: the run's.
      part: (i, n): this process reads the i-th of n slices of rows.
      start_step: batches consumed before.
      faults_before: counts of unusable records until then; see `run_log.total`.
    """
    size = config.train.global_batch_size
    settings = pipeline.BatchSettings(
        dataclasses.replace(
            row_settings(config), flip_prob=config.data.flip_prob, cache=_cache(config)
        ),
        global_batch_size=size,
        process_index=part[0],
        process_count=part[1],
        num_threads=config.data.num_threads,
        prefetch_batches=config.data.prefetch_batches,
        max_bad_frac=config.data.max_bad_frac,
    )
    return pipeline.make_batches(
        source,
        tokenizer,
        settings,
        start_step=start_step,
        on_bad=bad_records.RecordLog(
            run_log.log_path(workdir), position=start_step * size
        ),
        # Counted once among all processes: `run_log.total` adds them up again.
        faults_before=faults_before if part[0] == 0 else {},
    )


def validation_batches(
    config: Config,
    source: schema.Source | None,
    tokenizer: schema.Tokenizer,
    part: tuple[int, int],
) -> list[schema.Batch]:
    """This process's rows of whole global batches of held-out examples.

    None if no source provides them.
    """
    if source is None:
        return []
    size = config.train.global_batch_size
    rows = pipeline.rows_of(size, *part)
    count = max(1, min(len(source), config.log.validation_examples) // size)
    bad: dict[int, bad_records.Bad] = {}

    def note(one: bad_records.Bad) -> None:
        bad.setdefault(one.record, one)

    found = [
        pipeline.fixed_batch(
            source,
            tokenizer,
            row_settings(config),
            [k % len(source) for k in range(i * size, (i + 1) * size)],
            rows=rows,
            on_bad=note,
        )
        for i in range(count)
    ]
    if bad:
        first = next(iter(bad.values()))
        logging.warning(
            "%r: %s cannot be used and %s replaced, e.g. %s: %s",
            source,
            wording.counted(len(bad), "record"),
            "is" if len(bad) == 1 else "are",
            first.key,
            first.reason,
        )
    return found


def grid_batch(
    config: Config, source: schema.Source | None, tokenizer: tokenizers.Tokenizer
) -> schema.Batch | None:
    """The examples of the sample grid, or None if there are no held-out examples.

    They are the first validation examples, and bad ones are logged with those.
    """
    if source is None:
        return None
    count = min(config.log.grid_images, config.train.global_batch_size)
    return pipeline.fixed_batch(
        source,
        tokenizer,
        row_settings(config),
        [k % len(source) for k in range(count)],
        on_bad=lambda bad: None,
    )
