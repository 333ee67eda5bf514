"""Reads the facts of spans of pairs; imported by worker processes without Beam."""

from __future__ import annotations

import dataclasses
import functools
import pathlib

from glide_jax.data import schema
from glide_jax.errors import UserError
from glide_jax.prepare import facts, job, languages, scores
from glide_jax.runtime import files

# Pictures whose scores are computed at once.
_BATCH = 64
# The first and the last pair of a part, without the last.
Span = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Set:
    """The pairs that are read.

    Attributes:
      work: the preparation.
      is_validation: whether they are those of the validation sources.
      columns: number of scores of a pair.
    """

    work: job.Job
    is_validation: bool
    columns: int

    @property
    def folder(self) -> pathlib.Path:
        """The folder of the facts."""
        return self.work.facts(is_validation=self.is_validation)

    def keep_length(self, length: int) -> None:
        """Stores the number of pairs at the first start.

        Raises:
          UserError: a later start has another number.
        """
        path = self.folder / "length.json"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            files.write_json(path, length)
        elif files.read_json(path) != length:
            raise UserError(
                f"the sources have {length:,} pairs, and had {files.read_json(path):,}"
                f" when {self.work.output} was started; name another --output"
            )


def part_path(folder: pathlib.Path, span: Span) -> pathlib.Path:
    """The file of the facts of pairs start to stop - 1."""
    return folder / f"{span[0]:012d}-{span[1]:012d}.parquet"


def spans(start: int, stop: int, size: int) -> list[Span]:
    """Splits pairs start to stop - 1 into spans of at most `size`."""
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]


def read_span(set_: Set, span: Span) -> None:
    """Writes the facts of the pairs of a span."""
    reader = _reader(set_)
    rows: list[facts.Facts] = []
    for first, stop in spans(*span, _BATCH):
        rows += reader.read(range(first, stop))
    facts.write(part_path(set_.folder, span), rows)


@functools.lru_cache(maxsize=1)
def _reader(set_: Set) -> Reader:
    return Reader(set_)


class Reader:
    """Reads pairs, with the models that their facts need."""

    def __init__(self, set_: Set) -> None:
        config = set_.work.config
        self._source = job.open_pairs(config, is_validation=set_.is_validation)
        self._max_pixels, self._columns = config.picture.max_pixels, set_.columns
        self._detect = (
            languages.make_detector() if config.caption.languages else languages.none
        )
        self._scorer = scores.Scorer(set_.work) if set_.columns else None

    def read(self, indices: range) -> list[facts.Facts]:
        """Returns the facts of pairs; never raises for a bad pair."""
        rows, pictures = [], []
        for index in schema.announced(self._source, indices):
            row, image = facts.read(self._source, index, max_pixels=self._max_pixels)
            if image is not None:
                row.language, row.confidence = self._detect(row.caption)
                if self._scorer is not None:
                    pictures.append((row, self._scorer.crop(image)))
            row.scores = (0.0,) * self._columns
            rows.append(row)
        if self._scorer is not None and pictures:
            captions = [row.caption for row, _ in pictures]
            found = self._scorer.score([crops for _, crops in pictures], captions)
            for (row, _), values in zip(pictures, found, strict=True):
                row.scores = tuple(map(float, values))
        return rows
