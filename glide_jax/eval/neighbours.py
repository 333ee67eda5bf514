"""The memorisation probe: which training pictures are nearest to what a model drew.

GLIDE's authors looked at the nearest pairs, in CLIP's space, of samples from training
captions and pictures of the training set, and found none copied. Here the training set
passes by once, a batch at a time, and of each sample the nearest few are kept.
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
# The nearest of all samples; more than this nobody looks through.
MAX_ROWS = 40

Directions = Float[np.ndarray, "m d"]


class Nearest:
    """The nearest records of each of n samples among all that were added.

    Attributes:
      similarity: (n, count) cosines, falling; -inf where fewer records were added.
      indices: (n, count) the records' numbers in their source.
      keys: (n, count) their names.
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
        """Takes in some records; of equally near ones the earlier stays first."""
        found = self._samples @ directions.T
        # After the first few batches hardly any sample finds a nearer one.
        rows = np.flatnonzero(found.max(axis=1) > self.similarity[:, -1])
        shape = (len(rows), len(keys))
        new = {
            "similarity": found[rows],
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
    """The nearest of each sample, how many records were seen and how many were bad."""

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
    """Looks through the whole source for the `count` nearest pictures of each sample.

    Samples are cropped and resized as training pictures are, so that a copy is found
    as one. `on_progress` is told how many pictures were looked at, samples first.

    Raises:
      UserError: a sample that cannot be read, or no record that can.
    """
    drawn = []
    for start in range(0, len(samples), batch_size):
        some = samples[start : start + batch_size]
        pixels = [_sample_pixels(sample, extractor.px) for sample in some]
        drawn.append(_directions(extractor, pixels))
        on_progress(len(some))
    nearest, searched = Nearest(np.concatenate(drawn), count), 0
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
    """Numbers, names and pixels of the records that can be read."""
    indices, keys, pixels = [], [], []
    for number in numbers:
        try:
            example = source[number]
            pixels.append(_record_pixels(example, px))
        except schema.BadRecordError as bad:
            bad_records.log_left_out(bad_records.bad_at(number, number, bad))
            continue
        indices.append(number)
        keys.append(example.key)
    return indices, keys, pixels


def _record_pixels(example: schema.Example, px: int) -> image_io.Pixels:
    return image_io.to_pixels(transforms.load_image(example, px)[None])[0]


def _directions(
    extractor: extractors.Extractor, pixels: Sequence[np.ndarray]
) -> Directions:
    """Features of length 1, so that a product is a cosine."""
    pool = extractor(np.stack(pixels)).pool
    return pool / np.linalg.norm(pool, axis=1, keepdims=True)


def as_json(
    found: Search, samples: Sequence[picture_folder.Sample]
) -> list[dict[str, Any]]:
    """Each sample with its nearest records, the nearest pair of all first."""
    near = found.nearest
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
                for rank in range(min(near.indices.shape[1], found.searched))
            ],
        }
        for row in _order(near)
    ]


def _order(near: Nearest) -> np.ndarray:
    """Rows by the similarity of their nearest record, falling."""
    return np.argsort(-near.similarity[:, 0], kind="stable")


def draw(
    extractor: extractors.Extractor,
    found: Search,
    samples: Sequence[picture_folder.Sample],
    source: schema.Source,
) -> np.ndarray:
    """The contact sheet, uint8 (H, W, 3): a row for each of the nearest samples."""
    near = found.nearest
    shown = _order(near)[:MAX_ROWS]
    count = min(near.indices.shape[1], found.searched)
    rows, notes = [], []
    for row in shown:
        numbers = near.indices[row, :count]
        pictures = [_record_pixels(source[int(i)], extractor.px) for i in numbers]
        sample = samples[row]
        rows.append((sample.prompt, [image_io.read_image(sample.file), *pictures]))
        found_ones = zip(
            near.similarity[row, :count], near.keys[row, :count], strict=True
        )
        notes.append([sample.file.name, *(f"{s:.4f}\n{key}" for s, key in found_ones)])
    section = contact_sheet.Section(
        f"{len(shown)} of {len(samples)} samples, nearest pairs first",
        "At the left the sample and its file. Underneath each training picture the"
        f" cosine of {extractor.name} features ({extractor.digest}) and its record.",
        ["sample", *(f"nearest {rank + 1}" for rank in range(count))],
        rows,
        notes,
    )
    return contact_sheet.draw_contact_sheet(
        "Samples and the training pictures nearest to them",
        f"{wording.counted(found.searched, 'training picture')} searched"
        + (f", {found.left_out} left out as unreadable." if found.left_out else "."),
        [section],
    )
