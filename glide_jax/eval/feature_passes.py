"""Looks at pictures, a few at a time, and keeps features of them, not pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from glide_jax.eval import (
    clip_score,
    extractors,
    feature_cache,
    picture_sets,
    running_stats,
)

# Called with the pictures that were finished, after they are safe on disk; what it
# raises ends the work, which goes on from there another time.
OnPart = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Judges:
    """Who looks at the pictures.

    Attributes:
      extractor: Whose features the distances compare.
      clip: Who reads captions.
      keep_pixels: The first so many pictures are kept as they are.
    """

    extractor: extractors.Extractor | None = None
    clip: clip_score.ClipJudge | None = None
    keep_pixels: int = 0


def collect(
    pictures: picture_sets.PictureSet,
    judges: Judges,
    kept: feature_cache.FeatureCache,
    *,
    batch_size: int,
    on_part: OnPart,
) -> None:
    """Looks at all pictures that `kept` does not know yet, `batch_size` at once."""
    while kept.next_index < pictures.count:
        first = kept.next_index
        stop = min(first + batch_size, pictures.count)
        shown = pictures.read(first, stop)
        kept.commit(stop, look(shown, judges))
        on_part(stop - first)


def gaussian_of(kept: feature_cache.FeatureCache, name: str) -> running_stats.Gaussian:
    """Mean and covariance of an array of features, file by file.

    Raises:
      UserError: Fewer than two features.
    """
    running = None
    for block in kept.blocks(name):
        running = running or running_stats.RunningMoments(block.shape[1])
        running.add(block)
    return (running or running_stats.RunningMoments(0)).gaussian()


def look(shown: picture_sets.Shown, judges: Judges) -> dict[str, np.ndarray]:
    """Arrays with a row for each picture; what no judge tells is left out."""
    found = {"indices": shown.indices}
    if not len(shown.indices):
        return found
    if shown.captions is not None:
        found["captions"] = np.array(shown.captions, np.str_)
    kept = shown.pixels[shown.indices < judges.keep_pixels]
    if len(kept):
        found["pixels"] = kept
    if judges.extractor is not None:
        seen = judges.extractor(shown.pixels)
        found |= {k: v for k, v in seen._asdict().items() if v is not None}
    if judges.clip is not None and shown.captions is not None:
        by_level, text = judges.clip(shown.pixels, shown.captions, shown.indices)
        found |= {"clip_images": by_level, "clip_captions": text}
    return found
