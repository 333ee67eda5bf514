"""Stage 1: reads every pair once, and stores its facts in parts.

A part is a Parquet file of CHUNK pairs, named by its first and last pair. A killed run
continues with the parts that are missing.

A part is read in a process of its own. If that process ends, raises or hangs, the part
is read again in smaller ones and at last pair by pair: the pair that ends its process
gets the fault "crash", and all others have their facts.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Iterator

import apache_beam as beam

from glide_jax.prepare import facts, job, languages, scores

# Pairs of a span, and the seconds after which its process counts as hanging, from the
# first attempt to the last one. Models are compiled within these.
ATTEMPTS = ((job.CHUNK, 3600), (32, 600), (1, 300))
# Pictures whose scores are computed at once.
_BATCH = 64

Span = tuple[int, int]


def part_path(folder: pathlib.Path, span: Span) -> pathlib.Path:
    """The file of the facts of pairs start to stop - 1."""
    return folder / f"{span[0]:012d}-{span[1]:012d}.parquet"


def spans(start: int, stop: int, size: int) -> list[Span]:
    """Splits pairs start to stop - 1 into spans of at most `size`."""
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]


class ReadSpan(beam.DoFn):
    """Reads the pairs of a span and writes their facts."""

    def __init__(self, work: job.Job, is_validation: bool, columns: int) -> None:
        self._job, self._is_validation, self._columns = work, is_validation, columns

    def setup(self) -> None:
        """Opens what a worker reads by."""
        config = self._job.config
        self._source = job.open_pairs(config, is_validation=self._is_validation)
        self._folder = self._job.facts(is_validation=self._is_validation)
        self._detect = (
            languages.make_detector() if config.caption.languages else languages.none
        )
        self._scorer = scores.make_scorer(self._job) if self._columns else None

    def process(self, span: Span) -> Iterator[tuple[int, float]]:
        """Yields (pairs, seconds), unless the facts are there already."""
        path = part_path(self._folder, span)
        if path.exists():
            return
        start = time.monotonic()
        rows: list[facts.Facts] = []
        for first, stop in spans(*span, _BATCH):
            rows += self._read(range(first, stop))
        facts.write(path, rows)
        yield len(rows), time.monotonic() - start

    def _read(self, indices: range) -> list[facts.Facts]:
        max_pixels = self._job.config.picture.max_pixels
        rows, pictures = [], []
        for index in indices:
            row, image = facts.read(self._source, index, max_pixels=max_pixels)
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


class WriteCrash(beam.DoFn):
    """Writes the facts of a pair that ended its process."""

    def __init__(self, work: job.Job, is_validation: bool, columns: int) -> None:
        self._job, self._is_validation, self._columns = work, is_validation, columns

    def process(self, failed: tuple[Span, tuple]) -> None:
        """Takes the span of one pair with the error of its last attempt."""
        span, (_, error, _) = failed
        folder = self._job.facts(is_validation=self._is_validation)
        row = facts.Facts(
            span[0],
            f"record {span[0]}",
            facts.CRASH,
            " ".join(error.split())[:300],
            scores=(0.0,) * self._columns,
        )
        facts.write(part_path(folder, span), [row])


@dataclasses.dataclass
class ReadAll(beam.PTransform):
    """Reads spans; a PCollection of (pairs, seconds).

    Attributes:
      work: the preparation.
      is_validation: whether the validation sources are read.
      columns: number of scores of a pair.
    """

    work: job.Job
    is_validation: bool
    columns: int

    def expand(self, found: beam.PCollection) -> beam.PCollection:
        """Adds the attempts, each in smaller spans than the one before."""
        arguments = (self.work, self.is_validation, self.columns)
        read, failed = [], found
        for size, seconds in ATTEMPTS:
            good, failed = (
                failed
                | f"split to {size}" >> beam.FlatMap(_split, size)
                | f"spread {size}" >> beam.Reshuffle()
                | f"read {size}"
                >> beam.ParDo(ReadSpan(*arguments)).with_exception_handling(
                    use_subprocess=True, timeout=seconds
                )
            )
            read.append(good)
            if size > 1:
                failed = failed | f"failed {size}" >> beam.Map(_span_of)
        failed | "crashes" >> beam.ParDo(WriteCrash(*arguments))
        return tuple(read) | beam.Flatten()


def _split(span: Span, size: int) -> list[Span]:
    return spans(*span, size)


def _span_of(failed: tuple[Span, tuple]) -> Span:
    return failed[0]


def missing(folder: pathlib.Path, length: int) -> list[Span]:
    """The spans without facts, of `length` pairs.

    What a killed run has begun in smaller parts is continued in the smaller ones.
    """
    done: dict[int, set[int]] = {}
    for path in folder.glob("*.parquet"):
        first, stop = map(int, path.stem.split("-"))
        done.setdefault(first // job.CHUNK, set()).update(range(first, stop))
    found: list[Span] = []
    for first, stop in spans(0, length, job.CHUNK):
        covered = done.get(first // job.CHUNK, set())
        if not covered:
            found.append((first, stop))
        elif len(covered) < stop - first:
            found += [
                part
                for part in spans(first, stop, ATTEMPTS[1][0])
                if not covered.issuperset(range(*part))
            ]
    return found
