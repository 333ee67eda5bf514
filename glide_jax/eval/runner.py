"""One evaluation: look at the pictures, make the figures, write them down.

OUTPUT/parts/      what was seen of the pictures; drawing goes on after the last part
OUTPUT/samples.png the first pictures
OUTPUT/samples.npz as many as were asked for, in the layout of OpenAI's evaluator
OUTPUT/result.json figures, settings and machine; written last
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from glide_jax.bench import machine
from glide_jax.eval import (
    clip_score,
    extractors,
    feature_cache,
    feature_passes,
    metrics,
    npz_files,
    picture_sets,
    reference_files,
)
from glide_jax.runtime import files
from glide_jax.sample import image_io

SCHEMA = 1
GRID = 64  # pictures of samples.png


def open_parts(
    output: pathlib.Path,
    pictures: picture_sets.PictureSet,
    extractor: extractors.Extractor | None,
    clip: clip_score.ClipJudge | None,
    *,
    classes: Sequence[str],
    save_images: int,
) -> feature_cache.FeatureCache:
    """Where what is seen is kept, begun or gone on with.

    What it is compared with is no part of its settings: pictures are drawn once, and
    may be compared with several references.

    Raises:
      UserError: OUTPUT was begun with other pictures or judges.
    """
    settings = {
        "pictures": pictures.record,
        "features": None if extractor is None else describe(extractor),
        "classes": picture_sets.digest_of(classes) if classes else None,
        "judge": None if clip is None else f"noised_clip {clip.digest}",
        "save_images": save_images,
    }
    return feature_cache.FeatureCache(output / "parts", settings)


def describe(extractor: extractors.Extractor) -> str:
    """Name and digest."""
    return f"{extractor.name} {extractor.digest}"


def evaluate(
    pictures: picture_sets.PictureSet,
    judges: feature_passes.Judges,
    kept: feature_cache.FeatureCache,
    names: Sequence[str],
    *,
    reference: reference_files.Reference | None,
    batch_size: int,
    on_part: feature_passes.OnPart,
    pr_distances: str = metrics.EXACT,
) -> metrics.Found:
    """Extracts features of the pictures that are left, and computes these figures."""
    feature_passes.collect(
        pictures, judges, kept, batch_size=batch_size, on_part=on_part
    )
    extractor = "" if judges.extractor is None else judges.extractor.name
    found = metrics.compute(
        kept,
        names,
        extractor=extractor,
        reference=reference,
        pr_distances=pr_distances,
    )
    seen = sum(len(block) for block in kept.blocks("indices"))
    if seen < pictures.count:
        found.warnings.append(
            f"{pictures.count - seen} of {pictures.count} pictures could not be read "
            "and are left out"
        )
    return found


def write_pictures(
    output: pathlib.Path, kept: feature_cache.FeatureCache, save_images: int
) -> None:
    """samples.png, and samples.npz where pictures are to be saved.

    Neither, where none of the first pictures could be read: figures need them not.

    Raises:
      UserError: A file cannot be written.
    """
    if not kept.has("pixels"):
        return
    image_io.write_png(output / "samples.png", grid(kept))
    if save_images:
        count = min(save_images, sum(map(len, kept.blocks("pixels"))))
        shape = (count, *next(kept.blocks("pixels")).shape[1:])
        blocks = _first_rows(kept, count)
        pixels = npz_files.Streamed(shape, "uint8", blocks)
        npz_files.write(output / "samples.npz", {"arr_0": pixels})


def grid(kept: feature_cache.FeatureCache) -> image_io.Pixels:
    """The first GRID pictures that were kept, one at least, in a square."""
    shown = np.concatenate(list(_first_rows(kept, GRID)))
    return image_io.make_grid(shown, math.isqrt(len(shown) - 1) + 1)


def write_result(
    output: pathlib.Path,
    found: metrics.Found,
    settings: dict[str, Any],
    command: str,
) -> dict[str, Any]:
    """Writes result.json, and returns what it holds."""
    result = {
        "schema": SCHEMA,
        "verb": "evaluate",
        "settings": settings,
        "metrics": found.metrics,
        "warnings": found.warnings,
        "machine": machine.describe(),
        "command": command,
    }
    files.write_json(output / "result.json", result)
    return result


def _first_rows(kept: feature_cache.FeatureCache, count: int) -> Iterator[np.ndarray]:
    """The first `count` pictures that were kept; reads no more than these."""
    for block in kept.blocks("pixels"):
        yield block[:count]
        count -= len(block[:count])
        if not count:
            return
