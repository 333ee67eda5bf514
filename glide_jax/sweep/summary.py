"""Joins runs that differ in their seed, and finds the best value of each metric."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]
SEED = "seed"
_LOWER_IS_BETTER = re.compile(
    r"(^|[/_])(loss|mse|vb|fid|sfid|kid|bits_per_dim)(_q\d)?$"
)
_HIGHER_IS_BETTER = re.compile(
    r"(^|[/_])(precision|recall|inception_score|clip_score|noised_clip_score|retrieval)"
    r"(_q\d)?$"
)
# Figures by quarter of the noise, and errors of other figures.
_DETAIL = re.compile(r"_q\d$|_standard_error$")


class Value(NamedTuple):
    """A metric over the seeds of one setting.

    Attributes:
      mean: the mean over the runs that have the metric.
      spread: their sample standard deviation; None for a single run.
    """

    mean: float
    spread: float | None


class Group(NamedTuple):
    """The runs of one setting.

    Attributes:
      overrides: the swept values, without the seed if any group has several runs.
      runs: the number of runs.
      metrics: values by metric; metrics without a finite value are absent.
    """

    overrides: dict[str, Any]
    runs: int
    metrics: dict[str, Value]


def join_seeds(rows: Sequence[Row]) -> list[Group]:
    """One group for each setting, in the order of the first run of each."""
    by_setting: dict[str, list[Row]] = {}
    for row in rows:
        rest = {k: v for k, v in row["overrides"].items() if k != SEED}
        by_setting.setdefault(json.dumps(rest, sort_keys=True), []).append(row)
    groups = list(by_setting.values())
    # A sweep without repeated settings may sweep the seed itself: it is kept then.
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
    """The best mean of a metric; None where one value or no direction is known."""
    means = {group.metrics[name].mean for group in groups if name in group.metrics}
    if len(means) < 2:
        return None
    if _LOWER_IS_BETTER.search(name):
        return min(means)
    return max(means) if _HIGHER_IS_BETTER.search(name) else None


def is_detail(name: str) -> bool:
    """Whether a metric is a part or an error of another one, e.g. loss_q0."""
    return bool(_DETAIL.search(name))
