"""Runs one evaluation: extracts features, computes metrics and writes the results.

OUTPUT/parts/       features of the pictures; an interrupted evaluation continues there
OUTPUT/samples.png  the first pictures
OUTPUT/samples.npz  as many pictures as requested, in the layout of OpenAI's evaluator
OUTPUT/losses.json  losses, if requested
OUTPUT/result.json  metrics, settings and machine; written last
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from glide_jax.bench import machine
from glide_jax.data import sources
from glide_jax.errors import UserError
from glide_jax.eval import (
    clip_encoder,
    contact_sheet,
    extractors,
    feature_cache,
    feature_passes,
    losses,
    metric_needs,
    metrics,
    npz_files,
    picture_sets,
    reference_files,
)
from glide_jax.parallel import sharing
from glide_jax.runtime import files, progress
from glide_jax.sample import image_io, restore

SCHEMA = 1
GRID = 64  # pictures of samples.png
MAX_CLASSES = 1000  # of a CLIP's Inception Score


@dataclasses.dataclass(frozen=True)
class Request:
    """How pictures are evaluated.

    Attributes:
      features: The extractor, as `extractors.load` takes it; empty: none.
      clip: Bundle of the noised CLIP that encodes captions; empty: none.
      reference: File of real pictures; empty: none.
      names: Keys of `metrics.METRICS`; empty: all whose needs are met.
      pr_distances: One of `metrics.PR_DISTANCES`.
      batch_size: Pictures at once; changes no metric.
      save_images: Pictures that are written to samples.npz.
    """

    features: str = ""
    clip: str = ""
    reference: str = ""
    names: Sequence[str] = ()
    pr_distances: str = metrics.EXACT
    batch_size: int = extractors.BATCH_SIZE
    save_images: int = 0


def evaluate_pictures(
    pictures: picture_sets.PictureSet,
    request: Request,
    output: pathlib.Path,
    *,
    mesh: Mesh | None,
    on_batch: feature_passes.OnBatch,
) -> tuple[metrics.Results, dict[str, Any]]:
    """Evaluates pictures in the folder `output`, where an interrupted call continues.

    Among several processes each evaluates some of the pictures, and only process 0
    computes metrics and writes files other than features.

    Returns:
      The metrics, none but on process 0, and the settings that they depend on, as JSON
      values.

    Raises:
      UserError: A file cannot be used, a metric cannot be computed, or `output` holds
        features of other settings.
    """
    classes = zero_shot_classes(request.features, pictures.captions)
    networks = _load_networks(pictures, request, classes, mesh)
    reference = _open_reference(request, networks.extractor, pictures.px)
    names = _choose_metrics(pictures, request, networks, reference)
    cache = open_cache(
        output, pictures, networks, classes=classes, save_images=request.save_images
    )
    with progress.ProgressBar(
        pictures.count,
        "pictures evaluated",
        initial=sum(stop - first for first, stop in cache.spans),
        enabled=sharing.is_first(),
    ) as bar:

        def on_progress(count: int) -> None:
            bar.update(count)
            on_batch(count)

        results = evaluate(
            pictures,
            networks,
            cache,
            names,
            reference=reference,
            batch_size=request.batch_size,
            on_batch=on_progress,
            pr_distances=request.pr_distances,
        )
    if sharing.is_first():
        write_pictures(output, cache, request.save_images)
    settings = {
        **cache.settings,
        "metrics": names,
        "reference": None if reference is None else reference.record,
    }
    # Absent for exact distances, the default.
    if request.pr_distances != metrics.EXACT:
        settings["pr_distances"] = request.pr_distances
    return results, settings


def evaluate_losses(
    model: restore.SampleModel,
    source_spec: str,
    count: int,
    output: pathlib.Path,
    *,
    batch_size: int,
    mesh: Mesh | None,
    on_batch: Callable[[int], None],
) -> tuple[dict[str, float], dict[str, Any]]:
    """Returns the losses of a model and their settings; measured once in a folder.

    Args:
      model: A base model or an upsampler.
      source_spec: Data source; its validation split is read.
      count: At most so many records.
      output: Folder of losses.json.
      batch_size: Records at once.
      mesh: Mesh of the model's parameters.
      on_batch: Called with the number of records of each batch.
    """
    settings = {
        "source": source_spec,
        "count": count,
        "bundle": restore.bundle_digest(model.folder)[: extractors.DIGEST_LENGTH],
        "compute_dtype": model.config.model.compute_dtype,
    }
    path = output / "losses.json"
    if path.exists():
        before = files.read_json(path)
        if before["settings"] == settings:
            return before["metrics"], settings
    source = sources.open_source(source_spec, split="validation")
    total = min(count, len(source))
    with progress.ProgressBar(total, "losses measured") as bar:

        def on_progress(finished: int) -> None:
            bar.update(finished)
            on_batch(finished)

        values = losses.measure(
            model,
            source,
            total,
            batch_size=batch_size,
            mesh=mesh,
            on_batch=on_progress,
        )
    files.write_json(path, {"settings": settings, "metrics": values})
    return values, settings


def zero_shot_classes(features: str, captions: Sequence[str] | None) -> list[str]:
    """Returns the classes of a CLIP's Inception Score: the distinct captions.

    Of more than MAX_CLASSES captions the result has some, spread evenly over the
    alphabet. Other extractors have classes of their own, and one class has no score:
    then the result is empty.
    """
    if not features.startswith("clip:"):
        return []
    every = sorted(set(captions or []))
    count = min(len(every), MAX_CLASSES)
    classes = [every[i * len(every) // count] for i in range(count)]
    return classes if len(classes) > 1 else []


def clip_bundle(features: str, judge: str, clip: str) -> str:
    """Returns the bundle of the CLIP that encodes captions, from three flags.

    `judge` precedes the CLIP of `features`, which precedes the CLIP of guidance.
    """
    kind, _, place = features.partition(":")
    return judge or (place if kind == "clip" else "") or clip


def open_cache(
    output: pathlib.Path,
    pictures: picture_sets.PictureSet,
    networks: feature_passes.Networks,
    *,
    classes: Sequence[str],
    save_images: int,
) -> feature_cache.FeatureCache:
    """Opens or creates the cache of features in OUTPUT/parts.

    The reference is not one of its settings, so that the same pictures can be compared
    with several references.

    Raises:
      UserError: The folder holds features of other pictures or networks.
    """
    extractor, clip = networks.extractor, networks.clip
    settings = {
        "pictures": pictures.record,
        "features": None if extractor is None else describe(extractor),
        "classes": picture_sets.digest_of(classes) if classes else None,
        "judge": None if clip is None else f"noised_clip {clip.digest}",
        "save_images": save_images,
    }
    return feature_passes.open_cache(output / "parts", settings)


def describe(extractor: extractors.Extractor) -> str:
    """Returns the name and the digest of an extractor."""
    return f"{extractor.name} {extractor.digest}"


def evaluate(
    pictures: picture_sets.PictureSet,
    networks: feature_passes.Networks,
    cache: feature_cache.FeatureCache,
    names: Sequence[str],
    *,
    reference: reference_files.Reference | None,
    batch_size: int,
    on_batch: feature_passes.OnBatch,
    pr_distances: str = metrics.EXACT,
) -> metrics.Results:
    """Extracts the features that `cache` lacks, and computes the metrics `names`.

    Of several processes only process 0 computes metrics.
    """
    feature_passes.collect(
        pictures, networks, cache, batch_size=batch_size, on_batch=on_batch
    )
    if not sharing.is_first():
        return metrics.Results({}, [])
    results = metrics.compute(
        cache,
        names,
        extractor="" if networks.extractor is None else networks.extractor.name,
        reference=reference,
        pr_distances=pr_distances,
    )
    read = sum(len(block) for block in cache.blocks("indices"))
    if read < pictures.count:
        results.warnings.append(
            f"{pictures.count - read} of {pictures.count} pictures could not be read "
            "and are left out"
        )
    return results


def write_pictures(
    output: pathlib.Path, cache: feature_cache.FeatureCache, save_images: int
) -> None:
    """Writes samples.png, and samples.npz if `save_images` is positive.

    Writes neither if none of the first pictures could be read.

    Raises:
      UserError: A file cannot be written.
    """
    if not cache.has("pixels"):
        return
    image_io.write_png(output / "samples.png", grid(cache))
    if save_images:
        count = min(save_images, sum(map(len, cache.blocks("pixels"))))
        shape = (count, *next(cache.blocks("pixels")).shape[1:])
        pixels = npz_files.Streamed(shape, "uint8", _first_rows(cache, count))
        npz_files.write(output / "samples.npz", {"arr_0": pixels})


def grid(cache: feature_cache.FeatureCache) -> image_io.Pixels:
    """Returns the first GRID stored pictures in a square; there is at least one."""
    pictures = np.concatenate(list(_first_rows(cache, GRID)))
    columns = math.isqrt(len(pictures) - 1) + 1
    return contact_sheet.draw_grid(list(pictures), [""] * len(pictures), columns)


def write_result(
    output: pathlib.Path,
    results: metrics.Results,
    settings: dict[str, Any],
    command: str,
) -> None:
    """Writes result.json."""
    record = {
        "schema": SCHEMA,
        "verb": "evaluate",
        "settings": settings,
        "metrics": results.metrics,
        "warnings": results.warnings,
        "machine": machine.describe(),
        "command": command,
    }
    files.write_json(output / "result.json", record)


def _load_networks(
    pictures: picture_sets.PictureSet,
    request: Request,
    classes: Sequence[str],
    mesh: Mesh | None,
) -> feature_passes.Networks:
    extractor = clip = None
    if request.features:
        extractor = extractors.load(request.features, mesh=mesh, classes=classes)
    if pictures.has_captions and request.clip:
        model = restore.load_bundle(request.clip, compute_dtype="float32", mesh=mesh)
        clip = clip_encoder.ClipEncoder(model, mesh=mesh)
    return feature_passes.Networks(extractor, clip, max(GRID, request.save_images))


def _open_reference(
    request: Request, extractor: extractors.Extractor | None, px: int
) -> reference_files.Reference | None:
    if not request.reference:
        return None
    if extractor is None:
        raise UserError(
            f"--reference={request.reference} is compared by features; give --features"
        )
    return reference_files.read(request.reference, extractor, px)


def _choose_metrics(
    pictures: picture_sets.PictureSet,
    request: Request,
    networks: feature_passes.Networks,
    reference: reference_files.Reference | None,
) -> list[str]:
    """Returns the names of the metrics to compute; at least one."""
    have = metric_needs.available(
        networks.extractor,
        reference,
        pictures,
        has_clip=networks.clip is not None,
        batch_size=min(request.batch_size, pictures.count),
    )
    names = metric_needs.choose(request.names, have)
    if not names:
        raise UserError(
            "no metric can be computed; give --features with --reference, or --judge"
        )
    if request.pr_distances != metrics.EXACT and "precision_recall" not in names:
        raise UserError(
            f"--pr_distances={request.pr_distances} needs the metric precision_recall; "
            "give --features and a --reference that holds the features of its "
            "pictures, or leave the flag out"
        )
    return names


def _first_rows(cache: feature_cache.FeatureCache, count: int) -> Iterator[np.ndarray]:
    """Yields the first `count` stored pictures; reads no more than these."""
    for block in cache.blocks("pixels"):
        yield block[:count]
        count -= len(block[:count])
        if not count:
            return
