"""Counts records that cannot be used, and stops the run when they are too many."""

from __future__ import annotations

import collections
import itertools
import json
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from glide_jax import errors
from glide_jax.data import schema

_log = logging.getLogger(__name__)
# The share is judged as if at least so many records had been seen, so that one bad
# record among the first ten is not taken for a tenth of the data.
MIN_SEEN = 1000
NAMED = 5
# Bad records that are remembered, so that each is told of once: 20 MB of names.
MAX_REMEMBERED = 100_000
# No log of bad records grows beyond this.
MAX_LOG_BYTES = 10 << 20
SEEN = "seen"
# Every kind of BadRecordError that sources and transforms raise.
KINDS = (
    "broken caption",
    "broken image",
    "broken record",
    "changed file",
    "changed shard",
    "decompression bomb",
    "empty caption",
    "huge caption",
    "huge image",
    "missing caption",
    "narrow image",
    "truncated tar",
    "unreadable file",
    "unreadable shard",
    "vanished file",
    "vanished shard",
)


class Bad(NamedTuple):
    """A bad record at one position of the stream; light, unlike an exception."""

    kind: str
    key: str
    reason: str
    position: int


def bad_at(position: int, error: schema.BadRecordError) -> Bad:
    """The error's account, with where in the stream it was met."""
    return Bad(error.kind, error.key, error.reason, position)


def _warn(bad: Bad) -> None:
    _log.warning("replaced: %s: %s", bad.key, bad.reason)


class FaultCounter:
    """A tally of bad records against the share that is allowed.

    Fed with the records of one batch after the other, it tells the same for a run
    resumed (given `start`, what `state` said then) as for one that never stopped.
    `on_bad` (a line in the log by default) is called with each bad record once, however
    often it is drawn.

    Attributes:
      seen: records tried so far, good and bad.
      by_kind: bad records so far, by kind.
    """

    def __init__(
        self,
        max_bad_frac: float,
        on_bad: Callable[[Bad], None] | None = None,
        start: Mapping[str, int] | None = None,
    ) -> None:
        counts = dict(start or {})
        self.seen = counts.pop(SEEN, 0)
        self.by_kind = collections.Counter(counts)
        self._max_bad_frac = max_bad_frac
        self._on_bad = on_bad or _warn
        self._keys: dict[str, None] = {}  # in the order they were met

    def state(self) -> dict[str, int]:
        """What a resumed run is to be given: "seen", and the count of each kind."""
        return {SEEN: self.seen, **self.by_kind}

    def count(self, good: int, bad: Iterable[Bad]) -> None:
        """Notes some records that were usable, and those that were not.

        Raises:
          UserError: bad records now exceed the allowed share. Then the counts are those
            of before: no step is made with these records, and a run that goes on with
            more allowed meets them again.
        """
        before = self.seen, self.by_kind.copy()
        self.seen += good
        for one in bad:
            self.seen += 1
            self.by_kind[one.kind] += 1
            if one.key in self._keys:
                continue
            if len(self._keys) < MAX_REMEMBERED:
                self._keys[one.key] = None
                self._on_bad(one)
        if self.by_kind.total() > self._max_bad_frac * max(self.seen, MIN_SEEN):
            told = self._too_many()
            self.seen, self.by_kind = before
            raise errors.UserError(told)

    def _too_many(self) -> str:
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.by_kind.most_common())
        first = ", ".join(itertools.islice(self._keys, NAMED))
        return (
            f"{self.by_kind.total()} of {self.seen} records cannot be used ({kinds};"
            f" first: {first or 'named when they were met'}), more than"
            f" data.max_bad_frac={self._max_bad_frac:g} allows; mend the data or raise"
            " it"
        )


def metrics(state: Mapping[str, int]) -> dict[str, int]:
    """A counter's state as data/bad and data/bad/KIND_OF_FAULT."""
    kinds = {
        f"data/bad/{kind.replace(' ', '_')}": count
        for kind, count in sorted(state.items())
        if kind != SEEN
    }
    return {"data/bad": sum(kinds.values()), **kinds}


def to_vector(state: Mapping[str, int]) -> np.ndarray:
    """A counter's state as int64 (1 + KINDS,), to be summed over processes."""
    return np.array([state.get(name, 0) for name in (SEEN, *KINDS)], np.int64)


def from_vector(vector: np.ndarray) -> dict[str, int]:
    """The state that `to_vector` took; kinds never met are left out."""
    pairs = zip((SEEN, *KINDS), vector.tolist(), strict=True)
    return {name: count for name, count in pairs if count or name == SEEN}


class RecordLog:
    """Names bad records in a file, one JSON object a line: kind, key, reason, position.

    A run resumed at `position` forgets the lines from there on, which it will meet
    again, and does not repeat the others. The file stops at MAX_LOG_BYTES.
    """

    def __init__(self, path: pathlib.Path, position: int = 0) -> None:
        self._path = path
        lines = _kept_lines(path, position)
        self._told = {json.loads(line)["key"] for line in lines}
        self._bytes = sum(map(len, lines))
        if path.exists():
            draft = path.with_suffix(".tmp")
            draft.write_bytes(b"".join(lines))
            os.replace(draft, path)

    def __call__(self, bad: Bad) -> None:
        """Adds a line, here and in the log."""
        if bad.key in self._told:
            return
        _warn(bad)
        line = json.dumps(bad._asdict()).encode() + b"\n"
        if self._bytes + len(line) <= MAX_LOG_BYTES:
            self._bytes += len(line)
            with self._path.open("ab") as file:
                file.write(line)


def _kept_lines(path: pathlib.Path, position: int) -> list[bytes]:
    """Whole lines of earlier positions; a killed process may have left half of one."""
    if not path.exists():
        return []
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            told = Bad(**json.loads(line))
            if told.position < position and line.endswith(b"\n"):
                kept.append(line)
        except (ValueError, LookupError, TypeError):
            continue
    return kept
