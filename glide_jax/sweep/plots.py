"""Draws each metric of a sweep against each value that was swept."""

from __future__ import annotations

import collections
import pathlib
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from glide_jax.sweep import plan as plans

Row = Mapping[str, Any]
SEED = "seed"  # runs that differ in it alone are one point: their mean
LOG_AXIS_SPAN = 10  # values over more than a decade
INCHES, DOTS_PER_INCH = (5.6, 4.2), 120


def draw(rows: Sequence[Row], folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes METRIC_vs_KEY.png of what differs between the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for key in varied_keys(rows):
        for name in varied_metrics(rows):
            path = folder / f"{name.replace('/', '_')}_vs_{key}.png"
            draw_one(rows, name, key, path)
            paths.append(path)
    return paths


def draw_one(rows: Sequence[Row], name: str, key: str, path: pathlib.Path) -> None:
    """One picture: a line for each combination of the other swept values.

    Lines join means over seeds; each run is a dot.
    """
    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lines = series(rows, name, key)
    words = _words(lines)
    for label, points in lines.items():
        at = [
            (float(words.index(plans.shown(value)) if words else value), measured)
            for value, measured in points
        ]
        (line,) = axes.plot(*zip(*_means(at), strict=True), label=label or None)
        axes.plot(*zip(*at, strict=True), "o", color=line.get_color(), markersize=4)
    if words:
        axes.set_xticks(range(len(words)), words)
    else:
        _scale(axes, {value for points in lines.values() for value, _ in points})
    axes.set_xlabel(key)
    axes.set_ylabel(name)
    axes.grid(alpha=0.3)
    if any(lines):
        axes.legend(fontsize="small")
    figure.savefig(path)


def series(
    rows: Sequence[Row], name: str, key: str
) -> dict[str, list[tuple[Any, float]]]:
    """Points (swept value, metric) by the label of the other swept values."""
    others = [other for other in varied_keys(rows) if other != key]
    lines: dict[str, list[tuple[Any, float]]] = collections.defaultdict(list)
    for row in rows:
        value, measured = row["overrides"].get(key), row["metrics"].get(name)
        if value is not None and measured is not None:
            lines[plans.label(row["overrides"], others)].append(
                (value, float(measured))
            )
    return dict(lines)


def varied_keys(rows: Sequence[Row]) -> list[str]:
    """Keys, but the seed, with more than one value."""
    keys = dict.fromkeys(key for row in rows for key in row["overrides"])
    return [
        key
        for key in keys
        if key != SEED
        and len({plans.shown(row["overrides"].get(key)) for row in rows}) > 1
    ]


def varied_metrics(rows: Sequence[Row]) -> list[str]:
    """Metrics with more than one value."""
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    return [n for n in names if len({row["metrics"].get(n) for row in rows}) > 1]


def _words(lines: Mapping[str, Sequence[tuple[Any, float]]]) -> list[str]:
    """Values that are no numbers, as they are shown; [] of numbers."""
    values = [value for points in lines.values() for value, _ in points]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return []
    return list(dict.fromkeys(map(plans.shown, values)))


def _means(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    by_value: dict[float, list[float]] = collections.defaultdict(list)
    for x, y in points:
        by_value[x].append(y)
    return [(x, statistics.fmean(by_value[x])) for x in sorted(by_value)]


def _scale(axes: Axes, values: Collection[float | int]) -> None:
    """Over more than a decade a log axis, with the values themselves as its ticks."""
    if min(values) > 0 and max(values) > LOG_AXIS_SPAN * min(values):
        axes.set_xscale("log")
        axes.set_xticks(sorted(values), map(plans.shown, sorted(values)))
        axes.minorticks_off()
