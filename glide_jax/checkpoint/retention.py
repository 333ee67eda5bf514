"""Which checkpoints are kept: by count, by steps, by hours and by metric."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping, Sequence

from glide_jax.config.defaults import CheckpointConfig


@dataclasses.dataclass(frozen=True)
class Record:
    """The properties of a checkpoint that decide whether it is kept."""

    step: int
    created: datetime.datetime
    metrics: Mapping[str, float]


def to_delete(
    records: Sequence[Record], policy: CheckpointConfig, bad_from: int | None = None
) -> list[int]:
    """Steps that no policy keeps, oldest first; the newest is always kept.

    The newest before `bad_from`, the first of the current streak of skipped updates, is
    kept as well: a rewind restores it.

    A step once kept stays kept, or until a better one exists, so that a second call
    after the deletions returns nothing.
    """
    records = sorted(records, key=lambda record: record.step)
    wanted = {record.step for record in records[-max(1, policy.keep) :]}
    wanted |= _every_steps(records, policy.keep_every_steps)
    wanted |= _every_hours(records, policy.keep_every_hours)
    wanted |= _best(records, policy.keep_best, policy.best_metric)
    if bad_from is not None:
        wanted.add(max((r.step for r in records if r.step < bad_from), default=0))
    return [record.step for record in records if record.step not in wanted]


def _every_steps(records: Sequence[Record], every: int) -> set[int]:
    if every <= 0:
        return set()
    return {record.step for record in records if record.step % every == 0}


def _every_hours(records: Sequence[Record], hours: float) -> set[int]:
    """The first, and each at least `hours` after the last one kept."""
    if hours <= 0:
        return set()
    wanted: set[int] = set()
    last = None
    for record in records:
        # In seconds: timedelta does not accept every number of hours.
        if last is None or (record.created - last).total_seconds() >= 3600 * hours:
            wanted.add(record.step)
            last = record.created
    return wanted


def _best(records: Sequence[Record], count: int, metric: str) -> set[int]:
    """Those with the lowest metric; the older of equals. None without the metric."""
    judged = [
        (record.metrics[metric], record.step)
        for record in records
        if math.isfinite(record.metrics.get(metric, math.nan))
    ]
    return {step for _, step in sorted(judged)[:count]}
