"""Finds the training pictures nearest to samples, to detect memorisation.

GLIDE's authors inspected the nearest pairs, in CLIP's space, of samples from training
captions and training pictures, and saw no copies. Here the training set is read once,
batch by batch, and the nearest pictures of each sample are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from glide_jax.data import bad_records, schema, transforms
from glide_jax.errors import UserError
from glide_jax.eval import contact_sheet, extractors, picture_folder
from glide_jax.runtime import wording
from glide_jax.sample import image_io

SCHEMA = 1
MAX_ROWS = 40  # samples on the sheet, the nearest ones

Directions = Float[np.ndarray, "m d"]


class Nearest:
    """The nearest records of each of n samples.

    Attributes:
      similarity: (n, count) cosines in descending order; -inf where fewer records were
        added.
      indices: (n, count) indices of the records in their source.
      keys: (n, count) names of the records.
    """

    def __init__(self, samples: Directions, count: int) -> None:
        self._samples = samples
        shape = (len(samples), count)
        self.similarity = np.full(shape, -np.inf, np.float32)
        self.indices = np.full(shape, -1, np.int64)
        self.keys = np.full(shape, "", object)

    def add(
        self, directions: Directions, indices: Sequence[int], keys: Sequence[str]
    ) -> None:
        """Adds records; of equally near ones the earlier stays first."""
        cosines = self._samples @ directions.T
        # After the first few batches most samples stay unchanged.
        rows = np.flatnonzero(cosines.max(axis=1) > self.similarity[:, -1])
        shape = (len(rows), len(keys))
        new = {
            "similarity": cosines[rows],
            "indices": np.broadcast_to(np.array(indices, np.int64), shape),
            "keys": np.broadcast_to(np.array(keys, object), shape),
        }
        joined = {
            name: np.concatenate([getattr(self, name)[rows], values], axis=1)
            for name, values in new.items()
        }
        count = self.similarity.shape[1]
        best = np.argsort(-joined["similarity"], axis=1, kind="stable")[:, :count]
        for name, values in joined.items():
            getattr(self, name)[rows] = np.take_along_axis(values, best, axis=1)


class Search(NamedTuple):
    """The result of a search.

    Attributes:
      nearest: The nearest records of each sample.
      searched: The number of records that were read.
      left_out: The number of records that could not be read.
    """

    nearest: Nearest
    searched: int
    left_out: int


def search(
    extractor: extractors.Extractor,
    samples: Sequence[picture_folder.Sample],
    source: schema.Source,
    *,
    count: int,
    batch_size: int = extractors.BATCH_SIZE,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Search:
    """Searches the whole source for the `count` nearest pictures of each sample.

    Samples are cropped and resized as training pictures are, so that a copy has the
    same features.

    Args:
      extractor: Extracts the features.
      samples: Pictures of a model.
      source: Training pictures.
      count: Nearest pictures to keep for each sample.
      batch_size: Pictures at once.
      on_progress: Called with the number of pictures of each batch, samples first.

    Raises:
      UserError: A sample cannot be read, or no record can.
    """
    directions = []
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        pixels = [_sample_pixels(sample, extractor.px) for sample in batch]
        directions.append(_directions(extractor, pixels))
        on_progress(len(batch))
    nearest, searched = Nearest(np.concatenate(directions), count), 0
    for start in range(0, len(source), batch_size):
        numbers = range(start, min(start + batch_size, len(source)))
        indices, keys, pixels = _read(source, numbers, extractor.px)
        if pixels:
            nearest.add(_directions(extractor, pixels), indices, keys)
        searched += len(pixels)
        on_progress(len(numbers))
    if not searched:
        raise UserError(
            f"{source!r}: none of its {len(source)} records can be read; check the data"
        )
    return Search(nearest, searched, len(source) - searched)


def _sample_pixels(sample: picture_folder.Sample, px: int) -> image_io.Pixels:
    picture = Image.fromarray(image_io.read_image(sample.file))
    return transforms.centre_crop(picture, px)


def _read(
    source: schema.Source, numbers: Sequence[int], px: int
) -> tuple[list[int], list[str], list[np.ndarray]]:
    """Returns indices, names and pixels of the records that can be read."""
    indices, keys, pixels = [], [], []
    for number in numbers:
        try:
            example = source[number]
            pixels.append(_record_pixels(example, px))
        except schema.BadRecordError as bad:
            bad_records.log_skipped(bad_records.bad_at(number, number, bad))
            continue
        indices.append(number)
        keys.append(example.key)
    return indices, keys, pixels


def _record_pixels(example: schema.Example, px: int) -> image_io.Pixels:
    return image_io.to_pixels(transforms.load_image(example, px)[None])[0]


def _directions(
    extractor: extractors.Extractor, pixels: Sequence[np.ndarray]
) -> Directions:
    """Returns features of unit length, whose products are cosines."""
    pool = extractor(np.stack(pixels)).pool
    return pool / np.linalg.norm(pool, axis=1, keepdims=True)


def as_json(
    result: Search, samples: Sequence[picture_folder.Sample]
) -> list[dict[str, Any]]:
    """Returns each sample with its nearest records, the nearest pair first."""
    near = result.nearest
    return [
        {
            "file": samples[row].file.name,
            "prompt": samples[row].prompt,
            "nearest": [
                {
                    "record": near.keys[row, rank],
                    "index": int(near.indices[row, rank]),
                    "similarity": round(float(near.similarity[row, rank]), 6),
                }
                for rank in range(min(near.indices.shape[1], result.searched))
            ],
        }
        for row in _order(near)
    ]


def _order(near: Nearest) -> np.ndarray:
    """Returns the rows by the similarity of their nearest record, descending."""
    return np.argsort(-near.similarity[:, 0], kind="stable")


def draw(
    extractor: extractors.Extractor,
    result: Search,
    samples: Sequence[picture_folder.Sample],
    source: schema.Source,
) -> np.ndarray:
    """Returns the contact sheet, uint8 (H, W, 3), with the nearest samples in rows."""
    near = result.nearest
    shown = _order(near)[:MAX_ROWS]
    count = min(near.indices.shape[1], result.searched)
    rows, notes = [], []
    for row in shown:
        numbers = near.indices[row, :count]
        pictures = [_record_pixels(source[int(i)], extractor.px) for i in numbers]
        sample = samples[row]
        rows.append((sample.prompt, [image_io.read_image(sample.file), *pictures]))
        pairs = zip(near.similarity[row, :count], near.keys[row, :count], strict=True)
        notes.append([sample.file.name, *(f"{s:.4f}\n{key}" for s, key in pairs)])
    section = contact_sheet.Section(
        f"{len(shown)} of {len(samples)} samples, nearest pairs first",
        "The sample and its file are at the left. Below each training picture are the"
        f" cosine of {extractor.name} features ({extractor.digest}) and the record.",
        ["sample", *(f"nearest {rank + 1}" for rank in range(count))],
        rows,
        notes,
    )
    return contact_sheet.draw_contact_sheet(
        "Samples and the training pictures nearest to them",
        f"{wording.counted(result.searched, 'training picture')} searched"
        + (f", {result.left_out} left out as unreadable." if result.left_out else "."),
        [section],
    )
