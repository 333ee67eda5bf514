"""Stage 1: reads every pair once, and stores its facts in parts.

A part is a Parquet file of CHUNK pairs, named by its first and last pair. A killed run
continues with the parts that are missing.

A part is read in a process of its own. If that process ends, raises or hangs, the part
is read again in smaller ones and at last pair by pair: the pair that ends its process
gets the fault "crash", and all others have their facts.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Iterator

import apache_beam as beam

from glide_jax.prepare import facts, isolation, job, languages, scores

# Pairs of a span, and the seconds after which its process counts as hanging, from the
# first attempt to the last one. Models are compiled within these.
ATTEMPTS = ((job.CHUNK, 3600), (32, 600), (1, 300))
# Pictures whose scores are computed at once.
_BATCH = 64

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


def part_path(folder: pathlib.Path, span: Span) -> pathlib.Path:
    """The file of the facts of pairs start to stop - 1."""
    return folder / f"{span[0]:012d}-{span[1]:012d}.parquet"


def spans(start: int, stop: int, size: int) -> list[Span]:
    """Splits pairs start to stop - 1 into spans of at most `size`."""
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]


class ReadSpan(beam.DoFn):
    """Writes the facts of the pairs of a span, read in a process of its own."""

    def __init__(self, set_: Set, secs: float) -> None:
        self._set, self._secs = set_, secs

    def setup(self) -> None:
        """Prepares the process, which starts with the first span."""
        self._isolated = isolation.Isolated()

    def process(self, span: Span) -> Iterator[int]:
        """Yields the number of pairs; raises if one of them ends the process."""
        yield self._isolated.call(read_span, self._set, span, secs=self._secs)

    def teardown(self) -> None:
        """Ends the process."""
        self._isolated.close()


def read_span(set_: Set, span: Span) -> int:
    """Writes the facts of the pairs of a span; returns their number."""
    reader = _reader(set_)
    rows: list[facts.Facts] = []
    for first, stop in spans(*span, _BATCH):
        rows += reader.read(range(first, stop))
    facts.write(part_path(set_.folder, span), rows)
    return len(rows)


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
        self._scorer = scores.make_scorer(set_.work) if set_.columns else None

    def read(self, indices: range) -> list[facts.Facts]:
        """Returns the facts of pairs; never raises for a bad pair."""
        rows, pictures = [], []
        for index in indices:
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


class WriteCrash(beam.DoFn):
    """Writes the facts of a pair that ended its process."""

    def __init__(self, set_: Set) -> None:
        self._set = set_

    def process(self, failed: tuple[Span, tuple]) -> None:
        """Takes the span of one pair with the error of its last attempt."""
        span, (_, error, _) = failed
        row = facts.Facts(
            span[0],
            f"record {span[0]}",
            facts.CRASH,
            " ".join(error.split())[:300],
            scores=(0.0,) * self._set.columns,
        )
        facts.write(part_path(self._set.folder, span), [row])


@dataclasses.dataclass
class ReadAll(beam.PTransform):
    """Spans -> the numbers of pairs whose facts are written."""

    pairs: Set

    def expand(self, found: beam.PCollection) -> beam.PCollection:
        """Adds the attempts, each in smaller spans than the one before."""
        read, failed = [], found
        for size, secs in ATTEMPTS:
            good, failed = (
                failed
                | f"split to {size}" >> beam.FlatMap(_split, size)
                | f"spread {size}" >> beam.Reshuffle()
                | f"read {size}"
                >> beam.ParDo(ReadSpan(self.pairs, secs)).with_exception_handling()
            )
            read.append(good)
            if size > 1:
                failed = failed | f"failed {size}" >> beam.Map(_span_of)
        failed | "crashes" >> beam.ParDo(WriteCrash(self.pairs))
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
