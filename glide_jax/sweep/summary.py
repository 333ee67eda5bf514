"""Joins runs that differ in their seed, and finds the best value of each metric."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from glide_jax.eval import metrics

Row = Mapping[str, Any]
SEED = "seed"
# Losses of training and evaluation, alone and by quarter of the noise.
_LOSS = re.compile(r"(^|[/_])(loss|mse|vb|bits_per_dimension)(_q\d)?$")
# Values by quarter of the noise, and standard errors of other values.
_DETAIL = re.compile(r"_q\d$|_standard_error$")


class Value(NamedTuple):
    """A metric over the seeds of one setting.

    Attributes:
      mean: The mean over the runs that have the metric.
      spread: Their sample standard deviation; None for a single run.
    """

    mean: float
    spread: float | None


class Group(NamedTuple):
    """The runs of one setting.

    Attributes:
      overrides: The swept values, without the seed if any group has several runs.
      runs: The number of runs.
      metrics: Values by metric; metrics without a finite value are absent.
    """

    overrides: dict[str, Any]
    runs: int
    metrics: dict[str, Value]


def join_seeds(rows: Sequence[Row]) -> list[Group]:
    """Returns one group for each setting, in the order of the first run of each."""
    by_setting: dict[str, list[Row]] = {}
    for row in rows:
        rest = {k: v for k, v in row["overrides"].items() if k != SEED}
        by_setting.setdefault(json.dumps(rest, sort_keys=True), []).append(row)
    groups = list(by_setting.values())
    # Without repeated settings the seed itself is what varies, and is kept.
    dropped = SEED if len(groups) < len(rows) else None
    return [_join(same, dropped) for same in groups]


def _join(rows: Sequence[Row], dropped: str | None) -> Group:
    overrides = {k: v for k, v in rows[0]["overrides"].items() if k != dropped}
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    measured = {name: [row["metrics"].get(name) for row in rows] for name in names}
    finite = {n: [v for v in vs if v is not None] for n, vs in measured.items()}
    return Group(
        overrides,
        len(rows),
        {
            name: Value(
                statistics.fmean(values),
                statistics.stdev(values) if len(values) > 1 else None,
            )
            for name, values in finite.items()
            if values
        },
    )


def best(groups: Sequence[Group], name: str) -> float | None:
    """Returns the best mean of a metric, if it is clearly best.

    Returns None if the metric has a single value or no known direction (see
    `eval.metrics.better`), or if another mean is nearer than the larger of the two
    spreads: over seeds, or the metric's standard error.
    """
    direction = metrics.LOWER if _LOSS.search(name) else metrics.better(name)
    values = [
        (group.metrics[name].mean, _spread(group, name))
        for group in groups
        if name in group.metrics
    ]
    if direction is None or len({mean for mean, _ in values}) < 2:
        return None
    first, spread = sorted(values, reverse=direction == metrics.HIGHER)[0]
    others = [value for value in values if value[0] != first]
    if any(abs(mean - first) < max(spread, other) for mean, other in others):
        return None
    return first


def _spread(group: Group, name: str) -> float:
    error = group.metrics.get(f"{name}_standard_error")
    return group.metrics[name].spread or (error.mean if error else 0.0)


def is_detail(name: str) -> bool:
    """Returns whether a metric is a part or an error of another one, e.g. loss_q0."""
    return bool(_DETAIL.search(name))
