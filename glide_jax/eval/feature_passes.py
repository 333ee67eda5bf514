"""Extracts features of pictures batch by batch, and stores these, not the pictures."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from glide_jax.eval import clip_encoder, extractors, feature_cache, picture_sets
from glide_jax.parallel import sharing

# Called with the number of pictures of a batch once its features are on the disk. What
# it raises ends the work, which a later call continues.
OnBatch = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks that encode the pictures.

    Attributes:
      extractor: Extracts the features that distances compare.
      clip: Encodes pictures and captions.
      keep_pixels: The pixels of the first so many pictures are stored, too.
    """

    extractor: extractors.Extractor | None = None
    clip: clip_encoder.ClipEncoder | None = None
    keep_pixels: int = 0


def collect(
    pictures: picture_sets.PictureSet,
    networks: Networks,
    cache: feature_cache.FeatureCache,
    *,
    batch_size: int,
    on_batch: OnBatch,
) -> None:
    """Extracts features of all pictures that are not in `cache`, in batches.

    Among several processes each extracts some, and the cache of process 0 has all files
    at the end.

    Args:
      pictures: The pictures, the same in every process.
      networks: The networks that encode them, on this process's devices.
      cache: From `open_cache`.
      batch_size: Pictures at once.
      on_batch: Called with the number of pictures of each batch, and with 0 while this
        process waits for others.

    Raises:
      UserError: The features that another process wrote are not on the shared disk.
    """
    found = sharing.agree(
        "missing features", lambda: sharing.missing(cache.spans, pictures.count)
    )
    gaps = [(first, stop) for first, stop in found]
    batches = sharing.cut(gaps, batch_size, pictures.count)
    for first, stop in sharing.own(batches):
        batch = extract(pictures.read(first, stop), networks)
        cache.commit(stop, batch, first=first)
        on_batch(stop - first)
    sharing.wait_for_all("features", lambda: on_batch(0))
    if sharing.is_first():
        for first, stop in sharing.of_others(batches):
            sharing.wait_for_file(cache.path((first, stop)), flag="--output")
            cache.add((first, stop))
            on_batch(stop - first)


def open_cache(
    folder: pathlib.Path, settings: dict[str, Any]
) -> feature_cache.FeatureCache:
    """Opens or creates a cache, which process 0 does for all; see `FeatureCache`.

    Raises:
      UserError: The folder holds features of other settings, or this process has
        others than process 0.
    """
    is_first = sharing.is_first()
    cache = feature_cache.FeatureCache(folder, settings, is_first=is_first)
    asked = sharing.agree("settings of features", lambda: settings)
    if not is_first:
        remedy = "give every process the same files"
        feature_cache.check_same(asked, settings, "process 0", remedy)
    return cache


def extract(
    batch: picture_sets.PictureBatch, networks: Networks
) -> dict[str, np.ndarray]:
    """Returns arrays with a row for each picture; absent features have no entry."""
    arrays = {"indices": batch.indices}
    if not len(batch.indices):
        return arrays
    if batch.captions is not None:
        arrays["captions"] = np.array(batch.captions, np.str_)
    kept = batch.pixels[batch.indices < networks.keep_pixels]
    if len(kept):
        arrays["pixels"] = kept
    if networks.extractor is not None:
        features = networks.extractor(batch.pixels)._asdict()
        arrays |= {k: v for k, v in features.items() if v is not None}
    if networks.clip is not None and batch.captions is not None:
        by_level, text = networks.clip(batch.pixels, batch.captions, batch.indices)
        arrays |= {"clip_images": by_level, "clip_captions": text}
    return arrays
