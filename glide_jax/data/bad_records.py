"""Counts bad records, and stops the run if there are too many of them."""

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
# Least number of records that the share refers to: one bad record among the first ten
# does not mean a tenth of the data.
MIN_SEEN = 1000
NAMED = 5
# Largest number of bad records that are stored to recognise repeated draws. By default,
# only a source of ten million records can have more without stopping the run.
MAX_REMEMBERED = 100_000
# Largest size of a log of bad records.
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
    """A bad record at one position of the stream."""

    kind: str
    key: str
    reason: str
    position: int
    record: int  # its index in the source, which identifies it


def bad_at(position: int, record: int, error: schema.BadRecordError) -> Bad:
    """Returns the error of record `record`, drawn at `position` of the stream."""
    return Bad(error.kind, error.key, error.reason, position, record)


def _warn(bad: Bad) -> None:
    _log.warning("replaced: %s: %s", bad.key, bad.reason)


def log_skipped(bad: Bad) -> None:
    """Logs a record that is skipped and not replaced."""
    _log.warning("skipped: %s: %s", bad.key, bad.reason)


class FaultCounter:
    """Counts the bad records of a source, each once, against the allowed share.

    With n = min(num_records, max(seen, min_seen)), ceil(max_bad_frac * n) distinct bad
    records are allowed. The share is rounded up, so that one bad record stops a source
    only if the share is 0.

    The counts of a resumed run (`start` is the value of `state` at that time) equal
    those of an uninterrupted run. `on_bad` (by default it logs) is called once with
    each bad record, and once more by the counter of a resumed run.

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
        self._kinds = _kind_of_each(start.get(RECORDS, {}))
        self._max_bad_frac, self._num_records = max_bad_frac, num_records
        self._min_seen = min_seen
        self._on_bad = on_bad or _warn
        self._names: list[str] = []  # keys of the first bad records, for the error
        self._reported: set[int] = set()  # by this counter

    def state(self) -> dict[str, Any]:
        """Returns the state that a resumed run starts from.

        {"seen": draws, "records": {kind: sorted indices of its bad records}}.
        """
        return to_state(self.seen, self._kinds)

    def by_kind(self) -> dict[str, int]:
        """Returns the number of bad records so far by kind, the most frequent first."""
        return dict(collections.Counter(self._kinds.values()).most_common())

    def count(self, good: int, bad: Iterable[Bad]) -> None:
        """Adds a number of good draws, and the bad ones.

        Raises:
          UserError: bad records exceed the allowed share. The counts are unchanged, as
            a run that resumes with a larger share draws these records again.
        """
        bad = list(bad)
        seen = self.seen + good + len(bad)
        # During the first pass over the source every bad record is a new one.
        is_full = len(self._kinds) >= MAX_REMEMBERED and seen > self._num_records
        new: dict[int, str] = {}
        for one in bad:
            if is_full:
                continue
            # The draws of this process alone decide what it logs, so that a resumed
            # run logs the same.
            if one.record not in self._reported:
                self._reported.add(one.record)
                self._report(one)
            if one.record not in self._kinds:
                new[one.record] = one.kind
        most = min(self._num_records, max(seen, self._min_seen))
        # Tolerates the rounding error of a product that is a whole number.
        allowed = math.ceil(self._max_bad_frac * most - 1e-9)
        # A resumed run starts with the bad records of all processes, which may exceed
        # the share of one; only new ones are checked.
        if new and len(self._kinds) + len(new) > allowed:
            raise UserError(self._too_many(new, min(seen, self._num_records)))
        self.seen = seen
        self._kinds |= new

    def _report(self, bad: Bad) -> None:
        self._on_bad(bad)
        if len(self._names) < NAMED:
            self._names.append(bad.key)

    def _too_many(self, new: Mapping[int, str], seen: int) -> str:
        counts = collections.Counter([*self._kinds.values(), *new.values()])
        kinds = ", ".join(f"{n} {kind}" for kind, n in counts.most_common())
        first = ", ".join(self._names) or "listed in the log"
        return (
            f"{counts.total()} of {seen} records cannot be used ({kinds}; first: "
            f"{first}), more than "
            f"data.max_bad_frac={self._max_bad_frac:g} allows; repair the data or "
            "raise it"
        )


def _kind_of_each(records: Mapping[str, Iterable[int]]) -> dict[int, str]:
    return {index: kind for kind, indices in records.items() for index in indices}


def to_state(seen: int, kinds: Mapping[int, str]) -> dict[str, Any]:
    """Returns a counter's state from its draws and the kind of each bad record."""
    records: dict[str, list[int]] = {}
    for index, kind in sorted(kinds.items()):
        records.setdefault(kind, []).append(index)
    return {SEEN: seen, RECORDS: records}


def metrics(state: Mapping[str, Any]) -> dict[str, int]:
    """Returns the metrics data/bad and data/bad/KIND, in records, of a state."""
    kinds = {
        f"data/bad/{kind.replace(' ', '_')}": len(indices)
        for kind, indices in sorted(state[RECORDS].items())
    }
    return {"data/bad": sum(kinds.values()), **kinds}


def to_rows(state: Mapping[str, Any]) -> np.ndarray:
    """Returns the bad records of a state as (index, index in KINDS), int64 (N, 2)."""
    rows = [
        (index, KINDS.index(kind))
        for kind, indices in state[RECORDS].items()
        for index in indices
    ]
    return np.array(rows, np.int64).reshape(-1, 2)


def from_rows(seen: int, rows: np.ndarray) -> dict[str, Any]:
    """Returns the state of `seen` draws and the rows of `to_rows`.

    The first row of a record counts.
    """
    kinds: dict[int, str] = {}
    for index, kind in rows.tolist():
        kinds.setdefault(index, KINDS[kind])
    return to_state(seen, kinds)


class RecordLog:
    """Writes bad records to a file, one JSON object with the fields of `Bad` per line.

    A run resumed at `position` drops the lines from there on, since it draws those
    records again, and logs only records that the file did not list before. The file has
    at most MAX_LOG_BYTES.
    """

    def __init__(self, path: pathlib.Path, position: int = 0) -> None:
        self._path = path
        listed = _read_lines(path)
        kept = {line: bad for line, bad in listed.items() if bad.position < position}
        self._listed = {bad.record for bad in kept.values()}
        self._logged = {bad.record for bad in listed.values()}
        self._bytes = sum(map(len, kept))
        if path.exists():
            files.write_bytes(path, b"".join(kept))

    def __call__(self, bad: Bad) -> None:
        """Adds a line to the file, and to the log if the record is a new one."""
        if bad.record not in self._logged:
            self._logged.add(bad.record)
            _warn(bad)
        line = json.dumps(bad._asdict()).encode() + b"\n"
        is_full = self._bytes + len(line) > MAX_LOG_BYTES
        if bad.record not in self._listed and not is_full:
            self._bytes += len(line)
            with self._path.open("ab") as file:
                file.write(line)


def listed_records(path: pathlib.Path) -> set[int]:
    """Returns the indices of the bad records that a `RecordLog` has written."""
    return {bad.record for bad in _read_lines(path).values()}


def _read_lines(path: pathlib.Path) -> dict[bytes, Bad]:
    """Returns the complete lines of a file and their records, in order."""
    listed = {}
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            if line.endswith(b"\n"):
                listed[line] = Bad(**json.loads(line))
        except (ValueError, LookupError, TypeError):
            continue
    return listed
