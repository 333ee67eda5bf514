"""Plots each metric of a sweep against each swept value."""

from __future__ import annotations

import collections
import pathlib
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from glide_jax.sweep import run_list, summary

Row = Mapping[str, Any]
STANDARD_ERROR = "_standard_error"
TRAINING_MAIN = ("validation/loss", "loss")
LOG_AXIS_SPAN = 10  # values over more than a decade
INCHES, DOTS_PER_INCH = (5.6, 4.2), 120


def draw(
    rows: Sequence[Row], folder: pathlib.Path, names: Sequence[str]
) -> list[pathlib.Path]:
    """Writes METRIC_vs_KEY.png of these metrics against each key that varies."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for key in varied_keys(rows):
        for name in names:
            path = folder / f"{name.replace('/', '_')}_vs_{key}.png"
            draw_one(rows, name, key, path)
            paths.append(path)
    return paths


def draw_one(rows: Sequence[Row], name: str, key: str, path: pathlib.Path) -> None:
    """Writes one plot: a line for each combination of the other swept values.

    Lines join means over seeds. Each run is a dot, with the standard error of its
    metric if it has one, as KID does.
    """
    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lines = series(rows, name, key)
    words = _words(lines)
    for label, points in lines.items():
        at = [
            (float(words.index(run_list.shown(point.value)) if words else point.value))
            for point in points
        ]
        measured = [point.measured for point in points]
        errors = [point.standard_error for point in points]
        means = _means(list(zip(at, measured, strict=True)))
        (line,) = axes.plot(*zip(*means, strict=True), label=label or None)
        axes.errorbar(
            at,
            measured,
            yerr=errors if any(errors) else None,
            fmt="o",
            color=line.get_color(),
            markersize=4,
            capsize=3,
        )
    if words:
        axes.set_xticks(range(len(words)), words)
    else:
        _scale(axes, {p.value for points in lines.values() for p in points})
    axes.set_xlabel(key)
    axes.set_ylabel(name)
    axes.grid(alpha=0.3)
    if any(lines):
        axes.legend(fontsize="small")
    figure.savefig(path)


class Point(NamedTuple):
    """One run in a plot.

    Attributes:
      value: The swept value.
      measured: The metric.
      standard_error: Its standard error; 0 if unknown.
    """

    value: Any
    measured: float
    standard_error: float = 0.0


def series(rows: Sequence[Row], name: str, key: str) -> dict[str, list[Point]]:
    """Returns the points of each line, by the label of the other swept values."""
    others = [other for other in varied_keys(rows) if other != key]
    lines: dict[str, list[Point]] = collections.defaultdict(list)
    for row in rows:
        value, measured = row["overrides"].get(key), row["metrics"].get(name)
        if value is not None and measured is not None:
            error = row["metrics"].get(f"{name}{STANDARD_ERROR}") or 0.0
            label = run_list.label(row["overrides"], others)
            lines[label].append(Point(value, float(measured), float(error)))
    return dict(lines)


def varied_keys(rows: Sequence[Row]) -> list[str]:
    """Returns the keys, except the seed, with more than one value."""
    keys = dict.fromkeys(key for row in rows for key in row["overrides"])
    return [
        key
        for key in keys
        if key != summary.SEED
        and len({run_list.shown(row["overrides"].get(key)) for row in rows}) > 1
    ]


def varied_metrics(rows: Sequence[Row]) -> list[str]:
    """Returns the metrics with more than one value."""
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    return [n for n in names if len({row["metrics"].get(n) for row in rows}) > 1]


def main_metrics(rows: Sequence[Row]) -> list[str]:
    """Returns the metrics that a report plots by default.

    For training these are the validation loss and the loss; for evaluations all except
    values by quarter of the noise and standard errors, which are error bars.
    """
    names = [n for n in varied_metrics(rows) if not summary.is_detail(n)]
    return [n for n in names if n in TRAINING_MAIN] or names


def _words(lines: Mapping[str, Sequence[Point]]) -> list[str]:
    """Returns the swept values as texts; [] if all of them are numbers."""
    values = [point.value for points in lines.values() for point in points]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return []
    return list(dict.fromkeys(map(run_list.shown, values)))


def _means(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    by_value: dict[float, list[float]] = collections.defaultdict(list)
    for x, y in points:
        by_value[x].append(y)
    return [(x, statistics.fmean(by_value[x])) for x in sorted(by_value)]


def _scale(axes: Axes, values: Collection[float | int]) -> None:
    """Sets a logarithmic axis with the values as ticks if they span over a decade."""
    if min(values) > 0 and max(values) > LOG_AXIS_SPAN * min(values):
        axes.set_xscale("log")
        axes.set_xticks(sorted(values), map(run_list.shown, sorted(values)))
        axes.minorticks_off()
