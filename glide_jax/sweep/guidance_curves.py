"""What did guidance buy at each scale? Points of GLIDE's figure 6, of a sweep's rows.

1. Precision against recall.
2. Inception Score against FID.
3. CLIP score against FID.

A row is that of a finished `glide evaluate` run: its command says how it was guided.
Rows are comparable only if all else in them is the same, and are refused if it is not.
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from glide_jax.errors import UserError

UNGUIDED, CFG, CLIP = "unguided", "cfg", "clip"
# By mode: the flag of its scale, and the scale that guides nothing.
_SCALES = {CFG: ("guidance_scale", 1.0), CLIP: ("clip_guidance_scale", 0.0)}
# What rows may differ in: how they are guided, which pictures they are, where they lie.
_MAY_DIFFER = {
    "guidance_mode",
    "guidance_scale",
    "clip_guidance_scale",
    "seed",
    "output",
    "metrics",
}
# Older results of one sweep do not tell it.
_NEWER = "reference.file_digest"
# What eval/metrics.py puts before a figure, by the features it is of: Inception's, the
# same with TensorFlow 1's resizing, a noised CLIP's.
_PREFIXES = ("", "inception_tf1_", "noised_clip_")
# The names a quantity goes by.
NAMES = {
    # With float16 distances they have names of their own.
    **{
        quantity: tuple(
            f"{prefix}{quantity}{suffix}"
            for suffix in ("", "_float16")
            for prefix in _PREFIXES
        )
        for quantity in ("precision", "recall")
    },
    **{
        quantity: tuple(f"{prefix}{quantity}" for prefix in _PREFIXES)
        for quantity in ("inception_score", "fid")
    },
    "clip_score": ("noised_clip_score",),
}
_REMEDY = (
    "its runs need --features, --reference and captions, and --metrics left out makes "
    "all figures"
)


class Point(NamedTuple):
    """One mode at one scale: the mean of its runs.

    Attributes:
      mode: "unguided", "cfg" or "clip".
      scale: None of unguided.
      metrics: Every figure that all runs have.
    """

    mode: str
    scale: float | None
    metrics: dict[str, float]


class Curves(NamedTuple):
    """What is drawn.

    Attributes:
      points: Unguided first, then by mode and scale.
      names: The figure's name for each key of NAMES.
      command: What all runs were started with, without what they differ in.
      warnings: What the runs say is to be read with care, each line once.
    """

    points: list[Point]
    names: dict[str, str]
    command: str
    warnings: list[str]


def of_rows(rows: Sequence[Mapping[str, Any]]) -> Curves:
    """The curves of rows as `glide sweep --report --rows` writes them.

    Where all rows have "settings", those of their result.json, they are compared too:
    they name the weights and the reference by what is in them.

    Raises:
      UserError: No guided run; runs of another verb, guidance or scale than can be
          drawn, or that differ in more than that; a figure that is missing.
    """
    if not rows:
        raise UserError(
            "no run is finished, so there is nothing to draw; run glide sweep "
            "experiments/sweeps/curves.py first"
        )
    flags = [_flags(row) for row in rows]
    _check_alike(rows, flags)
    found: dict[tuple[str, float | None], list[Mapping[str, Any]]] = {}
    for row, given in zip(rows, flags, strict=True):
        found.setdefault(_guidance(row, given), []).append(row)
    if all(mode == UNGUIDED for mode, _ in found):
        raise UserError(
            "no run was guided; sweep --guidance_scale or --clip_guidance_scale"
        )
    names = _figures(rows)
    order = (UNGUIDED, CFG, CLIP)
    points = [
        Point(*key, _mean(of)) for key, of in found.items()
    ]  # of several seeds their mean
    points.sort(key=lambda point: (order.index(point.mode), point.scale or 0.0))
    kept = [
        f"--{name}={value}"
        for name, value in flags[0].items()
        if name not in _MAY_DIFFER
    ]
    told = dict.fromkeys(line for row in rows for line in row.get("warnings", []))
    return Curves(points, names, shlex.join(["glide", "evaluate", *kept]), [*told])


def to_markdown(curves: Curves, drawn_by: str) -> str:
    """The table of the points, and the commands that made them."""
    columns = list(curves.names.values())
    others = [n for n in curves.points[0].metrics if n.endswith("retrieval")]
    columns += [n for n in others if all(n in p.metrics for p in curves.points)]
    lines = [["guidance", "scale", *columns], ["---"] * (len(columns) + 2)]
    for point in curves.points:
        scale = "" if point.scale is None else f"{point.scale:g}"
        cells = [f"{point.metrics[name]:.4g}" for name in columns]
        lines.append([point.mode, scale, *cells])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    care = "".join(f"- {line}\n" for line in curves.warnings)
    table += f"\n\nRead with care:\n\n{care}" if care else "\n"
    told = (
        ("Each point, but for its guidance:", curves.command),
        ("Drawn by:", drawn_by),
    )
    return table + "".join(
        f"\n{line}\n\n```\n{command}\n```\n" for line, command in told
    )


def _flags(row: Mapping[str, Any]) -> dict[str, str]:
    """The flags of a row's command, the last of each.

    Raises:
      UserError: A row of another verb.
    """
    try:
        words = shlex.split(row.get("command", ""))
    except ValueError:  # a quote that is never closed
        words = []
    if words[:2] != ["glide", "evaluate"]:
        raise UserError(
            f"{_name(row)} is not of glide evaluate ({' '.join(words[:2]) or 'none'}); "
            "curves are drawn of its runs"
        )
    pairs = (word.removeprefix("--").partition("=") for word in words[2:])
    return {name: value for name, _, value in pairs}


def _guidance(
    row: Mapping[str, Any], flags: Mapping[str, str]
) -> tuple[str, float | None]:
    """Mode and scale; a scale that guides nothing is unguided.

    Raises:
      UserError: Both modes at once, or no scale.
    """
    mode = flags.get("guidance_mode", CFG)
    if mode == "none":
        return UNGUIDED, None
    if mode not in _SCALES:
        raise UserError(
            f"{_name(row)} is guided by {mode}; a curve is of cfg or of clip, leave it "
            "out"
        )
    flag, nothing = _SCALES[mode]
    if flag not in flags:
        raise UserError(
            f"{_name(row)} names no --{flag}, so it has no place on the curve of "
            f"{mode}; sweep --{flag}"
        )
    try:
        scale = float(flags[flag])
    except ValueError as error:
        raise UserError(
            f"{_name(row)} has --{flag}={flags[flag]}, which is no number; remove it, "
            "and the same sweep makes it anew"
        ) from error
    return (UNGUIDED, None) if scale == nothing else (mode, scale)


def _check_alike(
    rows: Sequence[Mapping[str, Any]], flags: Sequence[Mapping[str, str]]
) -> None:
    """Raises UserError for the first thing, but guidance, that two rows differ in."""
    have_settings = all("settings" in row for row in rows)  # older ones have none
    conditions = [
        {
            **{f"--{k}": v for k, v in given.items() if k not in _MAY_DIFFER},
            **(_flat(row["settings"]) if have_settings else {}),
        }
        for row, given in zip(rows, flags, strict=True)
    ]
    for row, these in zip(rows, conditions, strict=True):
        for name in dict.fromkeys([*conditions[0], *these]):
            first, other = conditions[0].get(name), these.get(name)
            is_new = name == _NEWER and None in (first, other)
            if first != other and not is_new:
                raise UserError(
                    f"{_name(rows[0])} has {name} {first} and {_name(row)} {other}; "
                    "runs on one picture differ in guidance and seed alone"
                )


def _flat(settings: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(settings, Mapping):
        return {path: settings}
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in _MAY_DIFFER:
            flat |= _flat(value, f"{path}.{name}" if path else name)
    return flat


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The name by which all rows have each quantity.

    Raises:
      UserError: One is missing, or was no number.
    """
    found = {}
    for quantity, names in NAMES.items():
        for name in names:
            if all(row["metrics"].get(name) is not None for row in rows):
                found[quantity] = name
                break
        else:
            lacks = next(
                r for r in rows if all(r["metrics"].get(n) is None for n in names)
            )
            raise UserError(f"{_name(lacks)} has no {' or '.join(names)}; {_REMEDY}")
    return found


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {
        name: statistics.fmean(row["metrics"][name] for row in rows)
        for name in rows[0]["metrics"]
        if all(row["metrics"].get(name) is not None for row in rows)
    }


def _name(row: Mapping[str, Any]) -> str:
    return f"run {row.get('label') or row.get('id') or 'without a name'}"


def labels(points: Iterable[Point]) -> list[str]:
    """What is written at points: their scales."""
    return ["" if p.scale is None else f"{p.scale:g}" for p in points]
