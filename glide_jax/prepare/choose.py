"""Stage 2: applies the rules, finds duplicates, and puts what is kept into an order.

Only rows of about 300 bytes go through the engine, never pictures. The result is a list
of dropped pairs, and for each shard the list of its pairs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa

from glide_jax.prepare import duplicates, facts, fingerprints, job, rules, scores

# Pairs of one file of the list of dropped pairs, in numbers of read pairs.
_LIST = 1 << 16
# Mean number of kept pairs that are sorted at once.
_BUCKET = 50_000


class Kept(NamedTuple):
    """A kept pair: the columns of its shard's list."""

    index: int
    key: str
    width: int
    height: int
    content: bytes
    num_words: int
    language: str
    scores: tuple[float, ...]


KEPT_SCHEMA = pa.schema(
    [
        ("rank", pa.int64()),
        ("index", pa.int64()),
        ("key", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("content", pa.binary()),
        ("num_words", pa.int32()),
        ("language", pa.string()),
        ("scores", pa.list_(pa.float32())),
    ]
)
DROPPED_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("key", pa.string()),
        ("rule", pa.string()),
        ("detail", pa.string()),
        ("other", pa.int64()),
        ("other_key", pa.string()),
    ]
)


class ReadFacts(beam.DoFn):
    """Reads a part of the facts and applies the rules for one pair."""

    def __init__(self, work: job.Job, thresholds: scores.Columns) -> None:
        self._job, self._thresholds = work, thresholds

    def setup(self) -> None:
        """Loads the fingerprints of the validation pictures."""
        config = self._job.config
        self._rules = rules.PairRules(config, self._thresholds)
        self._held_out: list[facts.Facts] = []
        self._near = None
        distance = config.duplicates.max_distance
        if config.data.validation_sources and distance >= 0:
            folder = self._job.facts(is_validation=True)
            self._held_out = [
                row
                for path in sorted(folder.glob("*.parquet"))
                for row in facts.read_rows(path)
                if row.pixels
            ]
            self._near = fingerprints.HashIndex(
                *duplicates.arrays(self._held_out),
                distance,
                config.duplicates.max_difference,
            )

    def process(self, path: str) -> Iterator[Any]:
        """Yields a Row, or Dropped."""
        for found in facts.read_rows(pathlib.Path(path)):
            drop = self._rules.check(found) or self._like_held_out(found)
            if drop is not None:
                yield duplicates.dropped(found.index, found.key, drop)
            else:
                yield _row(found)

    def _like_held_out(self, found: facts.Facts) -> rules.Drop | None:
        if self._near is None:
            return None
        near = self._near.nearest(found.hash, found.signature)
        if near is None:
            return None
        other = self._held_out[near[0]]
        return rules.Drop(
            rules.VALIDATION, f"distance {near[1]}", other.index, other.key
        )


def _row(found: facts.Facts) -> duplicates.Row:
    return duplicates.Row(
        found.index,
        found.key,
        found.width * found.height,
        found.width,
        found.height,
        found.content,
        found.pixels,
        found.hash,
        found.signature,
        fingerprints.digest(found.caption.encode()),
        len(found.caption.split()),
        found.language,
        found.scores,
    )


def order_key(seed: int, index: int) -> int:
    """A number of 64 bits that places a pair in the output; distinct in practice."""
    text = b"%d %d" % (seed, index)
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _bucket(row: duplicates.Row, seed: int, num_buckets: int) -> tuple[int, tuple]:
    key = order_key(seed, row.index)
    kept = Kept(
        row.index,
        row.key,
        row.width,
        row.height,
        row.content,
        row.num_words,
        row.language,
        row.scores,
    )
    return key * num_buckets >> 64, (key, *kept)


def num_shards(total: int, pairs_per_shard: int) -> int:
    """The number of shards of `total` pairs; 0 without pairs."""
    return min(total, max(1, round(total / pairs_per_shard)))


def _place(
    group: tuple[int, Iterable[tuple]], counts: Mapping[int, int], per_shard: int
) -> Iterator[tuple[int, tuple]]:
    """Yields (shard, (rank, *Kept)) of the rows of a bucket."""
    bucket, rows = group
    before = sum(count for other, count in counts.items() if other < bucket)
    total = sum(counts.values())
    shards = num_shards(total, per_shard)
    for place, (_, *kept) in enumerate(sorted(rows)):
        rank = before + place
        yield rank * shards // total, (rank, *kept)


class WriteList(beam.DoFn):
    """Writes a group of tuples as a Parquet file, sorted by its first column."""

    def __init__(self, folder: pathlib.Path, schema: pa.Schema) -> None:
        self._folder, self._schema = folder, schema

    def process(self, group: tuple[int, Iterable[tuple]]) -> None:
        """Takes the number of the file and its rows."""
        number, rows = group
        columns = list(zip(*sorted(rows), strict=True))
        table = pa.table(
            dict(zip(self._schema.names, columns, strict=True)), schema=self._schema
        )
        facts.write_table(self._folder / f"{number:06d}.parquet", table)


@dataclasses.dataclass
class Choose(beam.PTransform):
    """Paths of facts -> files of dropped pairs and of the pairs of each shard.

    Attributes:
      work: the preparation.
      thresholds: as in `rules.PairRules`.
      num_pairs: number of pairs that were read.
    """

    work: job.Job
    thresholds: scores.Columns
    num_pairs: int

    def expand(self, paths: beam.PCollection) -> beam.PCollection:
        """Adds the stage; an empty PCollection."""
        config = self.work.config
        found = (
            paths
            | "spread parts" >> beam.Reshuffle()
            | "apply rules" >> beam.ParDo(ReadFacts(self.work, self.thresholds))
        )
        rows, dropped = duplicates.split(found, "rules")
        rows, others = rows | "duplicates" >> duplicates.Deduplicate(self.work)
        buckets = -(-self.num_pairs // _BUCKET)
        keyed = rows | "bucket" >> beam.Map(_bucket, config.seed, buckets)
        counts = (
            keyed
            | "buckets" >> beam.Map(lambda pair: (pair[0], 1))
            | "count" >> beam.CombinePerKey(sum)
        )
        order = (
            keyed
            | "group by bucket" >> beam.GroupByKey()
            | "place"
            >> beam.FlatMap(
                _place,
                beam.pvalue.AsDict(counts),
                config.output.pairs_per_shard,
            )
            | "group by shard" >> beam.GroupByKey()
            | "write order" >> beam.ParDo(WriteList(self.work.order, KEPT_SCHEMA))
        )
        listed = (
            (dropped, *others)
            | beam.Flatten()
            | "list" >> beam.Map(lambda drop: (drop[0] // _LIST, drop))
            | "group by list" >> beam.GroupByKey()
            | "write dropped"
            >> beam.ParDo(WriteList(self.work.dropped, DROPPED_SCHEMA))
        )
        # One end of the graph: Dask computes the last collection only.
        return (order, listed) | "end" >> beam.Flatten()
