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
from collections.abc import Iterator

import apache_beam as beam

from glide_jax.prepare import facts, isolation, job, reading

# Pairs of a span, and the seconds after which its process counts as hanging, from the
# first attempt to the last one. Models are compiled within these.
ATTEMPTS = ((job.CHUNK, 3600), (32, 600), (1, 300))


class ReadSpan(beam.DoFn):
    """Writes the facts of the pairs of a span, read in a process of its own."""

    def __init__(self, set_: reading.Set, secs: int) -> None:
        self._set, self._secs = set_, secs

    def setup(self) -> None:
        """Prepares the process, which starts with the first span."""
        self._isolated = isolation.Isolated()

    def process(self, span: reading.Span) -> Iterator[tuple[reading.Span, str]]:
        """Yields the span and the error if one of its pairs ends the process."""
        error = self._isolated.call(reading.read_span, self._set, span, secs=self._secs)
        if error is not None:
            yield span, f"{type(error).__name__}: {error}"

    def teardown(self) -> None:
        """Ends the process."""
        self._isolated.close()


class WriteCrash(beam.DoFn):
    """Writes the facts of a pair that ended its process."""

    def __init__(self, set_: reading.Set) -> None:
        self._set = set_

    def process(self, failed: tuple[reading.Span, str]) -> None:
        """Takes the span of one pair with the error of its last attempt."""
        span, error = failed
        row = facts.Facts(
            span[0],
            f"record {span[0]}",
            facts.CRASH,
            " ".join(error.split())[:300],
            scores=(0.0,) * self._set.columns,
        )
        facts.write(reading.part_path(self._set.folder, span), [row])


@dataclasses.dataclass
class ReadAll(beam.PTransform):
    """Spans -> files of facts; an empty PCollection."""

    pairs: reading.Set

    def expand(self, found: beam.PCollection) -> beam.PCollection:
        """Adds the attempts, each in smaller spans than the one before."""
        spans_left = found
        for size, secs in ATTEMPTS:
            failed = (
                spans_left
                | f"split to {size}" >> beam.FlatMap(_split, size)
                | f"spread {size}" >> beam.Reshuffle()
                | f"read {size}" >> beam.ParDo(ReadSpan(self.pairs, secs))
            )
            spans_left = failed | f"failed {size}" >> beam.Keys()
        return failed | "crashes" >> beam.ParDo(WriteCrash(self.pairs))


def _split(span: reading.Span, size: int) -> list[reading.Span]:
    return reading.spans(*span, size)


def missing(folder: pathlib.Path, length: int) -> list[reading.Span]:
    """The spans without facts, of `length` pairs.

    What a killed run has begun in smaller parts is continued in the smaller ones.
    """
    done: dict[int, set[int]] = {}
    for path in folder.glob("*.parquet"):
        first, stop = map(int, path.stem.split("-"))
        done.setdefault(first // job.CHUNK, set()).update(range(first, stop))
    found: list[reading.Span] = []
    for first, stop in reading.spans(0, length, job.CHUNK):
        covered = done.get(first // job.CHUNK, set())
        if not covered:
            found.append((first, stop))
            continue
        for part in reading.spans(first, stop, ATTEMPTS[1][0]):
            if not covered.intersection(range(*part)):
                found.append(part)
            else:
                pairs = set(range(*part)) - covered
                found += [(index, index + 1) for index in sorted(pairs)]
    return found
