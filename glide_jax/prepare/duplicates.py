"""Rules 3 and 2, of several pairs: exact and near duplicates, repeated captions.

Of copies the one with most pixels is kept, of equally large ones the first. A pair is
dropped if a better one is its near duplicate, also if that one is dropped for a third:
so the result does not depend on the order in which an engine compares them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np

from glide_jax.prepare import fingerprints, job, rules


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


class Dropped(NamedTuple):
    """A dropped pair: the columns of the list."""

    index: int
    key: str
    rule: str
    detail: str
    other: int
    other_key: str


def dropped(index: int, key: str, drop: rules.Drop) -> Dropped:
    """Returns the pair with why it is dropped."""
    return Dropped(index, key, *drop)


def _is_a(found: Any, kind: type) -> bool:
    return isinstance(found, kind)


def split(found: beam.PCollection, name: str) -> tuple:
    """Separates rows and dropped pairs; not all engines have tagged outputs."""
    return tuple(
        found | f"{kind.__name__} of {name}" >> beam.Filter(_is_a, kind)
        for kind in (Row, Dropped)
    )


def arrays(rows: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
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
        yield dropped(row.index, row.key, rules.Drop(rule, "", *first[:2]))


def _split_same_signature(group: tuple[bytes, Iterable[Row]]) -> Iterator[Any]:
    """Keeps the best of the rows with equal hash and signature."""
    best, *others = sorted(group[1], key=Row.rank)
    yield best
    for row in others:
        drop = rules.Drop(rules.NEAR, "distance 0", *best[:2])
        yield dropped(row.index, row.key, drop)


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
    hashes, signatures = arrays(rows)
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
    yield dropped(row.index, row.key, drop)


def _split_repeated(
    group: tuple[bytes, Iterable[Row]], max_pictures: int
) -> Iterator[Any]:
    rows = list(group[1])
    if len(rows) <= max_pictures:
        yield from rows
        return
    for row in rows:
        drop = rules.Drop(rules.REPEATED, f"{len(rows)} pictures")
        yield dropped(row.index, row.key, drop)


@dataclasses.dataclass
class Deduplicate(beam.PTransform):
    """Rows -> (kept rows, dropped pairs) by the rules about several pairs."""

    work: job.Job

    def expand(self, rows: beam.PCollection) -> tuple:
        """Applies the rules that are on, in the order of `rules.RULES`."""
        config = self.work.config
        all_dropped = []

        def apply(name, keyed, function, *arguments):
            found = (
                keyed
                | f"group by {name}" >> beam.GroupByKey()
                | f"split by {name}" >> beam.FlatMap(function, *arguments)
            )
            kept, others = split(found, name)
            all_dropped.append(others)
            return kept

        if config.duplicates.exact:
            keyed = rows | "key pixels" >> beam.Map(lambda row: (row.pixels, row))
            rows = apply("pixels", keyed, _split_exact)
        if config.duplicates.max_distance >= 0:
            keyed = rows | "key signature" >> beam.Map(lambda row: (row.signature, row))
            rows = apply("signature", keyed, _split_same_signature)
            rows, near = self._near(rows)
            all_dropped.append(near)
        if config.caption.max_pictures:
            keyed = rows | "key caption" >> beam.Map(lambda row: (row.caption, row))
            most = config.caption.max_pictures
            rows = apply("caption", keyed, _split_repeated, most)
        return rows, all_dropped

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
            | "split near" >> beam.FlatMap(_split_near)
        )
        return split(found, "near")
