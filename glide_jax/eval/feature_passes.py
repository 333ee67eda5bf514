"""Extracts features of pictures batch by batch, and stores these, not the pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from glide_jax.eval import clip_encoder, extractors, feature_cache, picture_sets

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
    """Extracts features of all pictures that are not in `cache`, in batches."""
    while cache.next_index < pictures.count:
        first = cache.next_index
        stop = min(first + batch_size, pictures.count)
        cache.commit(stop, extract(pictures.read(first, stop), networks))
        on_batch(stop - first)


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
