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
    collecting,
    figures,
    json_files,
    npz_files,
    parts,
    references,
    scores,
)
from glide_jax.eval import features as features_lib
from glide_jax.eval import pictures as pictures_lib
from glide_jax.sample import images as images_lib

SCHEMA = 1
GRID = 64  # pictures of samples.png


def open_parts(
    output: pathlib.Path,
    pictures: pictures_lib.Pictures,
    extractor: features_lib.Extractor | None,
    clip: scores.ClipJudge | None,
    *,
    classes: Sequence[str],
    save_images: int,
) -> parts.Parts:
    """Where what is seen is kept, begun or gone on with.

    What it is compared with is no part of its settings: pictures are drawn once, and
    may be compared with several references.

    Raises:
        UserError: OUTPUT was begun with other pictures or judges.
    """
    settings = {
        "pictures": pictures.record,
        "features": None if extractor is None else describe(extractor),
        "classes": pictures_lib.digest_of(classes) if classes else None,
        "judge": None if clip is None else f"noised_clip {clip.digest}",
        "save_images": save_images,
    }
    return parts.Parts(output / "parts", settings)


def describe(extractor: features_lib.Extractor) -> str:
    """Name and digest."""
    return f"{extractor.name} {extractor.digest}"


def judge(
    pictures: pictures_lib.Pictures,
    judges: collecting.Judges,
    kept: parts.Parts,
    names: Sequence[str],
    *,
    reference: references.Reference | None,
    batch_size: int,
    on_part: collecting.OnPart,
    pr_distances: str = figures.EXACT,
) -> figures.Found:
    """Extracts features of the pictures that are left, and computes these figures."""
    collecting.collect(pictures, judges, kept, batch_size=batch_size, on_part=on_part)
    extractor = "" if judges.extractor is None else judges.extractor.name
    found = figures.compute(
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


def write_pictures(output: pathlib.Path, kept: parts.Parts, save_images: int) -> None:
    """samples.png, and samples.npz where pictures are to be saved.

    Neither, where none of the first pictures could be read: figures need them not.

    Raises:
        UserError: A file cannot be written.
    """
    if not kept.has("pixels"):
        return
    images_lib.write_png(output / "samples.png", grid(kept))
    if save_images:
        count = min(save_images, sum(map(len, kept.blocks("pixels"))))
        shape = (count, *next(kept.blocks("pixels")).shape[1:])
        blocks = _first_rows(kept, count)
        pixels = npz_files.Streamed(shape, "uint8", blocks)
        npz_files.write(output / "samples.npz", {"arr_0": pixels})


def grid(kept: parts.Parts) -> images_lib.Pixels:
    """The first GRID pictures that were kept, one at least, in a square."""
    shown = np.concatenate(list(_first_rows(kept, GRID)))
    return images_lib.make_grid(shown, math.isqrt(len(shown) - 1) + 1)


def write_result(
    output: pathlib.Path,
    found: figures.Found,
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
    json_files.write(output / "result.json", result)
    return result


def _first_rows(kept: parts.Parts, count: int) -> Iterator[np.ndarray]:
    """The first `count` pictures that were kept; reads no more than these."""
    for block in kept.blocks("pixels"):
        yield block[:count]
        count -= len(block[:count])
        if not count:
            return
