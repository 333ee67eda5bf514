"""Points of GLIDE's figure 6, which shows the effect of guidance, from a sweep's rows.

1. Precision against recall.
2. Inception Score against FID.
3. CLIP score against FID.

Each row is that of a finished `glide evaluate` run, with its flags and settings. Rows
are comparable only if they differ in guidance and seed alone; others are refused.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from glide_jax.errors import UserError
from glide_jax.eval import metrics
from glide_jax.sweep import result

Row = Mapping[str, Any]
UNGUIDED, CFG, CLIP = "unguided", "cfg", "clip"
# By mode: the flag of its scale, and the scale without effect.
_SCALES = {CFG: ("guidance_scale", 1.0), CLIP: ("clip_guidance_scale", 0.0)}
# Flags and settings in which rows may differ.
_MAY_DIFFER = {
    "guidance_mode",
    "guidance_scale",
    "clip_guidance_scale",
    "seed",
    "output",
    "metrics",
}
# The plotted quantities, and their values in `eval.metrics.METRICS`.
QUANTITIES = {
    "precision": "precision",
    "recall": "recall",
    "inception_score": "inception_score",
    "fid": "fid",
    "clip_score": "noised_clip_score",
}


class Point(NamedTuple):
    """One mode at one scale.

    Attributes:
      mode: "unguided", "cfg" or "clip".
      scale: The guidance scale; None if unguided.
      metrics: Means over the runs of every metric that all of them have.
    """

    mode: str
    scale: float | None
    metrics: dict[str, float]


class Curves(NamedTuple):
    """The plotted data.

    Attributes:
      points: Unguided first, then by mode and scale.
      names: The name of the metric for each key of QUANTITIES.
      command: The command of all runs, without the flags that differ.
      warnings: The warnings of the runs, each once.
    """

    points: list[Point]
    names: dict[str, str]
    command: str
    warnings: list[str]


def of_rows(rows: Sequence[Row]) -> Curves:
    """Returns the curves of rows as `glide sweep --report --rows` writes them.

    Raises:
      UserError: No run is guided; a run is of another verb, mode or scale than can be
        plotted; runs differ in more than guidance and seed; a metric is missing.
    """
    if not rows:
        raise UserError(
            "no run is finished, so there is nothing to plot; run glide sweep "
            "experiments/sweeps/curves.py first"
        )
    for row in rows:
        if row["verb"] != "evaluate":
            raise UserError(
                f"{_name(row)} is of glide {row['verb']}; curves need runs of glide "
                "evaluate"
            )
    _check_comparable(rows)
    by_point: dict[tuple[str, float | None], list[Row]] = {}
    for row in rows:
        by_point.setdefault(_guidance(row), []).append(row)
    if all(mode == UNGUIDED for mode, _ in by_point):
        raise UserError(
            "no run was guided; sweep --guidance_scale or --clip_guidance_scale"
        )
    order = (UNGUIDED, CFG, CLIP)
    points = [Point(*key, _means(same)) for key, same in by_point.items()]
    points.sort(key=lambda point: (order.index(point.mode), point.scale or 0.0))
    flags = rows[0]["flags"]
    shared = {name: value for name, value in flags.items() if name not in _MAY_DIFFER}
    command = result.command("evaluate", shared)
    return Curves(points, _metric_names(rows), command, result.warnings(rows))


def to_markdown(curves: Curves, plot_command: str) -> str:
    """Returns the table of the points, and the commands behind it."""
    columns = list(curves.names.values())
    others = [n for n in curves.points[0].metrics if n.endswith("retrieval")]
    columns += [n for n in others if all(n in p.metrics for p in curves.points)]
    lines = [["guidance", "scale", *columns], ["---"] * (len(columns) + 2)]
    for point in curves.points:
        cells = [f"{point.metrics[name]:.4g}" for name in columns]
        lines.append([point.mode, label(point), *cells])
    page = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    warnings = "".join(f"- {line}\n" for line in curves.warnings)
    page += f"\n\nRead with care:\n\n{warnings}" if warnings else "\n"
    commands = (
        ("Each point, but for its guidance", curves.command),
        ("Drawn by", plot_command),
    )
    return page + "".join(
        f"\n{line} (absolute paths are shortened):\n\n```\n{command}\n```\n"
        for line, command in commands
    )


def label(point: Point) -> str:
    """Returns the scale of a point as text; empty if unguided."""
    return "" if point.scale is None else f"{point.scale:g}"


def _guidance(row: Row) -> tuple[str, float | None]:
    """Returns mode and scale; a scale without effect is unguided.

    Raises:
      UserError: The row has both modes at once, or no scale.
    """
    mode = row["flags"].get("guidance_mode", CFG)
    if mode == "none":
        return UNGUIDED, None
    if mode not in _SCALES:
        raise UserError(
            f"{_name(row)} has guidance_mode={mode}; a curve is of cfg or clip, leave "
            "the run out"
        )
    flag, neutral = _SCALES[mode]
    if flag not in row["flags"]:
        raise UserError(
            f"{_name(row)} has no --{flag}, which places it on the curve of {mode}; "
            f"sweep --{flag}"
        )
    try:
        scale = float(row["flags"][flag])
    except ValueError as error:
        raise UserError(
            f"{_name(row)} has --{flag}={row['flags'][flag]}, which is not a number; "
            "remove the row and run the sweep again"
        ) from error
    return (UNGUIDED, None) if scale == neutral else (mode, scale)


def _check_comparable(rows: Sequence[Row]) -> None:
    """Raises UserError for the first difference of two rows other than guidance."""
    conditions = []
    for row in rows:
        flags = {f"--{name}": str(value) for name, value in row["flags"].items()}
        own = {n: v for n, v in flags.items() if n[2:] not in _MAY_DIFFER}
        conditions.append(own | _flatten(row["settings"]))
    for row, these in zip(rows, conditions, strict=True):
        for name in dict.fromkeys([*conditions[0], *these]):
            first, other = conditions[0].get(name), these.get(name)
            if first == other:
                continue
            unknown = [r for r in (rows[0], row) if not r["settings"]]
            if unknown and not name.startswith("--"):
                raise UserError(
                    f"{_name(unknown[0])} has no settings, so its weights may differ "
                    "from those of the other runs; evaluate it again, or leave it out"
                )
            raise UserError(
                f"{_name(rows[0])} has {name} {first} and {_name(row)} {other}; "
                "runs of one plot may differ in guidance and seed only"
            )


def _flatten(settings: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(settings, Mapping):
        return {path: settings}
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in _MAY_DIFFER:
            flat |= _flatten(value, f"{path}.{name}" if path else name)
    return flat


def _metric_names(rows: Sequence[Row]) -> dict[str, str]:
    """Returns the name under which all rows have each quantity.

    Raises:
      UserError: A quantity is missing, or is not a number, in some row.
    """
    found = {}
    for quantity, value in QUANTITIES.items():
        names = (n for n in rows[0]["metrics"] if metrics.is_value(n, value))
        found[quantity] = name = next(names, value)
        for row in rows:
            if row["metrics"].get(name) is None:
                raise UserError(
                    f"{_name(row)} has no {name}; runs need --features, --reference "
                    "and captions, and without --metrics they have all metrics"
                )
    return found


def _means(rows: Sequence[Row]) -> dict[str, float]:
    return {
        name: statistics.fmean(row["metrics"][name] for row in rows)
        for name in rows[0]["metrics"]
        if all(row["metrics"].get(name) is not None for row in rows)
    }


def _name(row: Row) -> str:
    return f"run {row['label'] or row['id']}"
