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
import numpy as np
import pyarrow as pa

from glide_jax.prepare import facts, fingerprints, job, rules

DROPPED = "dropped"
# Pairs of one file of the list of dropped pairs, in numbers of read pairs.
_LIST = 1 << 16
# Mean number of kept pairs that are sorted at once.
_BUCKET = 50_000


class Row(NamedTuple):
    """What the rules about several pairs read of one pair."""

    index: int
    key: str
    num_pixels: int
    width: int
    height: int
    content: bytes
    pixels: bytes
    hash: int
    signature: bytes
    caption: bytes  # digest
    num_words: int
    language: str
    scores: tuple[float, ...]

    def rank(self) -> tuple[int, int]:
        """Of duplicates the one of the least rank is kept."""
        return -self.num_pixels, self.index


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


def _dropped(index: int, key: str, drop: rules.Drop) -> beam.pvalue.TaggedOutput:
    return beam.pvalue.TaggedOutput(DROPPED, (index, key, *drop))


class ReadFacts(beam.DoFn):
    """Reads a part of the facts and applies the rules for one pair."""

    def __init__(self, work: job.Job, thresholds: tuple) -> None:
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
                *_arrays(self._held_out), distance, config.duplicates.max_difference
            )

    def process(self, path: str) -> Iterator[Any]:
        """Yields rows that pass, and (index, key, *Drop) of the others."""
        for found in facts.read_rows(pathlib.Path(path)):
            drop = self._rules.check(found) or self._like_held_out(found)
            if drop is not None:
                yield _dropped(found.index, found.key, drop)
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


def _row(found: facts.Facts) -> Row:
    return Row(
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


def _arrays(rows: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The hashes uint64 (n,) and the signatures uint8 (n, 43) of rows."""
    rows = list(rows)
    hashes = np.array([row.hash for row in rows], np.uint64)
    joined = b"".join(row.signature for row in rows)
    signatures = np.frombuffer(joined, np.uint8)
    return hashes, signatures.reshape(len(rows), fingerprints.SIGNATURE_BYTES)


def _split_exact(group: tuple[bytes, Iterable[Row]]) -> Iterator[Any]:
    """Keeps the first of the rows with equal pixels."""
    first, *others = sorted(group[1], key=lambda row: row.index)
    yield first
    seen = {first.content}
    for row in others:
        rule = rules.SAME_BYTES if row.content in seen else rules.SAME_PIXELS
        seen.add(row.content)
        yield _dropped(row.index, row.key, rules.Drop(rule, "", *first[:2]))


def _split_same_signature(group: tuple[bytes, Iterable[Row]]) -> Iterator[Any]:
    """Keeps the best of the rows with equal hash and signature."""
    best, *others = sorted(group[1], key=Row.rank)
    yield best
    for row in others:
        drop = rules.Drop(rules.NEAR, "distance 0", *best[:2])
        yield _dropped(row.index, row.key, drop)


class Marked(NamedTuple):
    """A row of a band: what decides whether another is kept in its place."""

    rank: tuple[int, int]
    key: str
    hash: int
    signature: bytes


def _bands(row: Row, distance: int) -> Iterator[tuple[tuple[int, int], Marked]]:
    marked = Marked(row.rank(), row.key, row.hash, row.signature)
    for key in fingerprints.band_keys(row.hash, distance):
        yield key, marked


def _find_near(
    group: tuple[Any, Iterable[Marked]], distance: int, difference: int
) -> Iterator[tuple[int, tuple[tuple[int, int], int, str]]]:
    """Yields (index, (rank, distance, key) of a better near duplicate) of a band."""
    rows = sorted(group[1])
    if len(rows) < 2:
        return
    best: dict[int, tuple[int, int]] = {}
    hashes, signatures = _arrays(rows)
    for pairs in fingerprints.near_pairs(hashes, signatures, distance, difference):
        for i, j, bits in zip(*(part.tolist() for part in pairs), strict=True):
            best[j] = min(best.get(j, (i, bits)), (i, bits))
    for j, (i, bits) in best.items():
        yield rows[j].rank[1], (rows[i].rank, bits, rows[i].key)


def _split_near(
    group: tuple[int, tuple[Iterable[Row], Iterable[tuple]]],
) -> Iterator[Any]:
    """Drops a row that has a better near duplicate, which may be dropped itself."""
    (row,), marks = group[1]
    better = min(marks, default=None)
    if better is None:
        yield row
        return
    rank, bits, key = better
    drop = rules.Drop(rules.NEAR, f"distance {bits}", rank[1], key)
    yield _dropped(row.index, row.key, drop)


def _split_repeated(
    group: tuple[bytes, Iterable[Row]], max_pictures: int
) -> Iterator[Any]:
    rows = list(group[1])
    if len(rows) <= max_pictures:
        yield from rows
        return
    for row in rows:
        drop = rules.Drop(rules.REPEATED, f"{len(rows)} pictures")
        yield _dropped(row.index, row.key, drop)


@dataclasses.dataclass
class Deduplicate(beam.PTransform):
    """Rows -> (kept rows, dropped pairs) by the rules about several pairs."""

    work: job.Job

    def expand(self, rows: beam.PCollection) -> tuple:
        """Applies the rules that are on, in the order of `rules.RULES`."""
        config = self.work.config
        dropped = []

        def split(name, keyed, function, *arguments):
            found = (
                keyed
                | f"group by {name}" >> beam.GroupByKey()
                | f"split by {name}"
                >> beam.FlatMap(function, *arguments).with_outputs(DROPPED, main="kept")
            )
            dropped.append(found[DROPPED])
            return found["kept"]

        if config.duplicates.exact:
            keyed = rows | "key pixels" >> beam.Map(lambda row: (row.pixels, row))
            rows = split("pixels", keyed, _split_exact)
        if config.duplicates.max_distance >= 0:
            keyed = rows | "key signature" >> beam.Map(lambda row: (row.signature, row))
            rows = split("signature", keyed, _split_same_signature)
            rows, near = self._near(rows)
            dropped.append(near)
        if config.caption.max_pictures:
            keyed = rows | "key caption" >> beam.Map(lambda row: (row.caption, row))
            most = config.caption.max_pictures
            rows = split("caption", keyed, _split_repeated, most)
        return rows, dropped

    def _near(self, rows: beam.PCollection) -> tuple:
        rule = self.work.config.duplicates
        marks = (
            rows
            | "bands" >> beam.FlatMap(_bands, rule.max_distance)
            | "group by band" >> beam.GroupByKey()
            | "compare"
            >> beam.FlatMap(_find_near, rule.max_distance, rule.max_difference)
        )
        keyed = rows | "key index" >> beam.Map(lambda row: (row.index, row))
        found = (
            (keyed, marks)
            | "join marks" >> beam.CoGroupByKey()
            | "split near"
            >> beam.FlatMap(_split_near).with_outputs(DROPPED, main="kept")
        )
        return found["kept"], found[DROPPED]


def order_key(seed: int, index: int) -> int:
    """A number of 64 bits that places a pair in the output; distinct in practice."""
    text = b"%d %d" % (seed, index)
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _bucket(row: Row, seed: int, num_buckets: int) -> tuple[int, tuple]:
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
    thresholds: tuple
    num_pairs: int

    def expand(self, paths: beam.PCollection) -> None:
        """Adds the stage."""
        config = self.work.config
        read = (
            paths
            | "spread parts" >> beam.Reshuffle()
            | "apply rules"
            >> beam.ParDo(ReadFacts(self.work, self.thresholds)).with_outputs(
                DROPPED, main="kept"
            )
        )
        rows, dropped = read["kept"] | "duplicates" >> Deduplicate(self.work)
        buckets = -(-self.num_pairs // _BUCKET)
        keyed = rows | "bucket" >> beam.Map(_bucket, config.seed, buckets)
        counts = (
            keyed
            | "buckets" >> beam.Map(lambda pair: (pair[0], 1))
            | "count" >> beam.CombinePerKey(sum)
        )
        (
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
        (
            (read[DROPPED], *dropped)
            | beam.Flatten()
            | "list" >> beam.Map(lambda drop: (drop[0] // _LIST, drop))
            | "group by list" >> beam.GroupByKey()
            | "write dropped"
            >> beam.ParDo(WriteList(self.work.dropped, DROPPED_SCHEMA))
        )
