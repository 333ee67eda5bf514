"""Counts records that cannot be used, and stops the run when they are too many."""

from __future__ import annotations

import collections
import json
import logging
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from glide_jax.data import schema
from glide_jax.errors import UserError
from glide_jax.runtime import files

_log = logging.getLogger(__name__)
# The share is taken of at least so many records, so that one bad record among the first
# ten is not taken for a tenth of the data.
MIN_SEEN = 1000
NAMED = 5
# Bad records that are remembered from one pass over the source to the next. Only a
# source of ten million records has more that do not stop the run by default.
MAX_REMEMBERED = 100_000
# No log of bad records grows beyond this.
MAX_LOG_BYTES = 10 << 20
SEEN, RECORDS = "seen", "records"
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
    record: int  # its index in the source, which tells it from all others


def bad_at(position: int, record: int, error: schema.BadRecordError) -> Bad:
    """The error of a record, and where in the stream it was drawn."""
    return Bad(error.kind, error.key, error.reason, position, record)


def _warn(bad: Bad) -> None:
    _log.warning("replaced: %s: %s", bad.key, bad.reason)


def log_left_out(bad: Bad) -> None:
    """Says that a record was left out and not replaced."""
    _log.warning("left out: %s: %s", bad.key, bad.reason)


class FaultCounter:
    """Counts the bad records of a source, each once, against the share allowed.

    The share is one of the records: drawing a bad record again changes nothing. It is
    taken of the records drawn so far, of at least `min_seen` of them, or of the whole
    source where that is smaller; and is rounded up, so that one bad record does not
    stop a source of any size unless the share is 0.

    Fed with the records of one batch after the other, it counts the same for a run
    that is resumed (given `start`, what `state` said then) as for one that never
    stopped. `on_bad` (a line in the log by default) is called once with each bad
    record, and once more by the counter of a resumed run.

    Attributes:
      seen: draws so far, good and bad.
    """

    def __init__(
        self,
        max_bad_frac: float,
        num_records: int,
        on_bad: Callable[[Bad], None] | None = None,
        start: Mapping[str, Any] | None = None,
        *,
        min_seen: int = MIN_SEEN,
    ) -> None:
        start = start or {}
        self.seen = start.get(SEEN, 0)
        # Checkpoints of an older version count draws, which say nothing about records.
        self._kinds = _kind_of_each(start.get(RECORDS, {}))
        self._max_bad_frac, self._num_records = max_bad_frac, num_records
        self._min_seen = min_seen
        self._on_bad = on_bad or _warn
        self._names: list[str] = []  # of the first, for a message
        self._told: set[int] = set()  # by this counter

    def state(self) -> dict[str, Any]:
        """What a resumed run is to be given: {"seen": draws, "records": by kind}.

        "records" has the sorted indices of the bad records of each kind.
        """
        return to_state(self.seen, self._kinds)

    def by_kind(self) -> dict[str, int]:
        """Bad records so far, by kind, the most frequent first."""
        return dict(collections.Counter(self._kinds.values()).most_common())

    def count(self, good: int, bad: Iterable[Bad]) -> None:
        """Adds some records that were usable, and those that were not.

        Raises:
          UserError: bad records now exceed the allowed share. Then the counts are those
            of before: no step is made with these records, and a run that goes on with
            more allowed meets them again.
        """
        bad = list(bad)
        seen = self.seen + good + len(bad)
        # What is not remembered is new as long as the source is drawn a first time.
        is_full = len(self._kinds) >= MAX_REMEMBERED and seen > self._num_records
        new: dict[int, str] = {}
        for one in bad:
            if is_full:
                continue
            # By what this process has drawn, not by what all have counted: its log is
            # the same whether or not the run was resumed.
            if one.record not in self._told:
                self._told.add(one.record)
                self._tell(one)
            if one.record not in self._kinds:
                new[one.record] = one.kind
        most = min(self._num_records, max(seen, self._min_seen))
        # Less than a rounding error above a whole number is that number.
        allowed = math.ceil(self._max_bad_frac * most - 1e-9)
        # A resumed run begins with the records of all processes, more than one process
        # had counted: what was accepted is not judged again.
        if new and len(self._kinds) + len(new) > allowed:
            raise UserError(self._too_many(new, min(seen, self._num_records)))
        self.seen = seen
        self._kinds |= new

    def _tell(self, bad: Bad) -> None:
        self._on_bad(bad)
        if len(self._names) < NAMED:
            self._names.append(bad.key)

    def _too_many(self, new: Mapping[int, str], seen: int) -> str:
        counts = collections.Counter([*self._kinds.values(), *new.values()])
        kinds = ", ".join(f"{n} {kind}" for kind, n in counts.most_common())
        first = ", ".join(self._names) or "named when they were drawn first"
        return (
            f"{counts.total()} of {seen} records cannot be used ({kinds}; first: "
            f"{first}), more than "
            f"data.max_bad_frac={self._max_bad_frac:g} allows; repair the data or "
            "raise it"
        )


def _kind_of_each(records: Mapping[str, Iterable[int]]) -> dict[int, str]:
    return {index: kind for kind, indices in records.items() for index in indices}


def to_state(seen: int, kinds: Mapping[int, str]) -> dict[str, Any]:
    """A counter's state from its draws and the kind of each bad record."""
    records: dict[str, list[int]] = {}
    for index, kind in sorted(kinds.items()):
        records.setdefault(kind, []).append(index)
    return {SEEN: seen, RECORDS: records}


def metrics(state: Mapping[str, Any]) -> dict[str, int]:
    """A counter's state as data/bad and data/bad/KIND_OF_FAULT, in records."""
    kinds = {
        f"data/bad/{kind.replace(' ', '_')}": len(indices)
        for kind, indices in sorted(state[RECORDS].items())
    }
    return {"data/bad": sum(kinds.values()), **kinds}


def to_rows(state: Mapping[str, Any]) -> np.ndarray:
    """The bad records of a counter's state: (index, number of its kind), int64."""
    rows = [
        (index, KINDS.index(kind))
        for kind, indices in state[RECORDS].items()
        for index in indices
    ]
    return np.array(rows, np.int64).reshape(-1, 2)


def from_rows(seen: int, rows: np.ndarray) -> dict[str, Any]:
    """The state of some draws and rows of `to_rows`, the first of each record."""
    kinds: dict[int, str] = {}
    for index, kind in rows.tolist():
        kinds.setdefault(index, KINDS[kind])
    return to_state(seen, kinds)


class RecordLog:
    """Names bad records in a file, one JSON object a line with the fields of `Bad`.

    A run resumed at `position` forgets the lines from there on, which it will meet
    again, and does not repeat the others. The file stops at MAX_LOG_BYTES.
    """

    def __init__(self, path: pathlib.Path, position: int = 0) -> None:
        self._path = path
        lines = _kept_lines(path, position)
        self._told = {json.loads(line)["record"] for line in lines}
        self._bytes = sum(map(len, lines))
        if path.exists():
            files.write_bytes(path, b"".join(lines))

    def __call__(self, bad: Bad) -> None:
        """Adds a line, here and in the log."""
        if bad.record in self._told:
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
