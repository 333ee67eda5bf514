"""Draws the three plots of GLIDE's figure 6 side by side, with the commands below."""

from __future__ import annotations

import logging
import pathlib
import textwrap
from typing import Any, cast

import numpy as np
from matplotlib import path as paths
from matplotlib import transforms
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from glide_jax.errors import UserError
from glide_jax.eval import metrics
from glide_jax.runtime import files
from glide_jax.sweep import guidance_curves, result, run_list

# Keys of guidance_curves.QUANTITIES: (horizontal, vertical).
PLOTS = (("recall", "precision"), ("fid", "inception_score"), ("fid", "clip_score"))
TITLES = ("Precision and recall", "Inception Score and FID", "CLIP score and FID")

LINES = {
    guidance_curves.CFG: ("tab:blue", "o", "classifier-free guidance"),
    guidance_curves.CLIP: ("tab:orange", "s", "CLIP guidance"),
}
WIDTH_INCHES, DOTS_PER_INCH = 12.0, 120
_ABOVE_PT, _PLOT_PT = 62, 222  # legend and titles; the plots
TEXT_PT, COMMAND_PT = 13, 10
_WRAP = 138  # letters of a line of the caption
_DOT_PT = 9.0  # side of a point
# Offsets of a scale's text from its point, in typographic points, best first.
_PLACES = [
    (right * far * 1.3, up * far)
    for far in (13.0, 20.0)
    for right, up in (
        *((0, 1), (0, -1), (1, 0), (-1, 0)),
        *((1, 1), (-1, -1), (1, -1), (-1, 1)),
    )
]


def write(source: pathlib.Path, output: str | None) -> list[pathlib.Path]:
    """Writes the plots of a sweep, a PNG, and the table of its points beside them.

    Args:
      source: The folder of a sweep, or a file of its rows (.jsonl).
      output: The PNG file.

    Returns:
      The paths of the plots and of the table.

    Raises:
      UserError: `source` is neither, its rows are not comparable, or `output` is not a
        PNG or cannot be written.
    """
    if not output or not output.endswith(".png"):
        raise UserError(
            f"--output={output or ''} is not a PNG file, which --curves writes; give "
            "e.g. --output=curves.png"
        )
    rows = _read_rows(source)
    try:
        curves = guidance_curves.of_rows(rows)
    except UserError as error:
        raise UserError(f"--curves={source}: {error}") from error
    flags = result.portable({"curves": str(source), "output": output})
    command = result.command("evaluate", flags)
    picture = pathlib.Path(output)
    page = picture.with_suffix(".md")
    try:
        if page.exists() and not page.read_bytes().startswith(b"| guidance |"):
            raise UserError(
                f"--output would write its table over {page}, which is another page; "
                "name another picture"
            )
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw(curves, picture, command)
        text = guidance_curves.to_markdown(curves, command)
        files.write_text(page, text)
    except OSError as error:
        raise UserError(
            f"--output={output} cannot be written ({error.strerror}); name another"
        ) from error
    return [picture, page]


def _read_rows(source: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the rows of a file, or of a folder's finished runs."""
    if source.suffix == ".jsonl":
        return result.read_rows(source)
    plan = run_list.read(source)
    rows = result.make_rows(plan, source)
    if len(rows) < len(plan.runs):
        logging.warning(
            "%d of %d runs are finished; the others are not plotted",
            *(len(rows), len(plan.runs)),
        )
    return rows


def draw(curves: guidance_curves.Curves, path: pathlib.Path, plot_command: str) -> None:
    """Writes the plots as a PNG, with both commands in the caption."""
    make(curves, plot_command).savefig(path)


def make(curves: guidance_curves.Curves, plot_command: str) -> Figure:
    """Returns the figure, as high as its caption needs."""
    caption = _caption(curves, plot_command)
    below = (caption.count("\n") + 1) * COMMAND_PT * 1.3 + 56  # with the axes' labels
    height = _ABOVE_PT + _PLOT_PT + below
    figure = Figure(figsize=(WIDTH_INCHES, height / 72), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    figure.subplots_adjust(
        0.065, below / height, 0.985, 1 - _ABOVE_PT / height, wspace=0.3
    )
    every = figure.subplots(1, len(PLOTS))
    for axes, title, (x, y) in zip(every, TITLES, PLOTS, strict=True):
        _plot(axes, curves, x, y)
        axes.set_title(title, fontsize=TEXT_PT)
    handles, names = every[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="upper center", ncols=3, fontsize=TEXT_PT, frameon=False
    )
    style = {"fontsize": COMMAND_PT, "family": "monospace"}
    figure.text(0.01, 8 / height, caption, va="bottom", **style)
    return figure


def _plot(axes: Axes, curves: guidance_curves.Curves, x: str, y: str) -> None:
    def place(point: guidance_curves.Point) -> tuple[float, float]:
        return point.metrics[curves.names[x]], point.metrics[curves.names[y]]

    start = [p for p in curves.points if p.mode == guidance_curves.UNGUIDED]
    texts, drawn = [], []
    for mode, (color, marker, name) in LINES.items():
        own = [p for p in curves.points if p.mode == mode]
        if not own:
            continue
        line = list(map(place, [*start, *own]))
        axes.plot(*zip(*line, strict=True), color=color, linewidth=1.5, zorder=2)
        drawn.append(line)
        at = list(map(place, own))
        axes.plot(*zip(*at, strict=True), marker, color=color, label=name, zorder=3)
        texts += [
            (xy, t, color)
            for xy, t in zip(at, map(guidance_curves.label, own), strict=True)
        ]
    if start:
        at = place(start[0])
        axes.plot(*at, "D", color="black", label="unguided", zorder=4)
    for kind, set_label in ((x, axes.set_xlabel), (y, axes.set_ylabel)):
        is_lower = metrics.better(curves.names[kind]) == metrics.LOWER
        better = " (lower is better)" if is_lower else ""
        set_label(f"{curves.names[kind]}{better}", fontsize=TEXT_PT - 1)
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=TEXT_PT - 2)
    _write(axes, texts, drawn)


def _write(axes: Axes, texts: list[tuple[Any, str, str]], lines: list[Any]) -> None:
    """Places each text near its point, where it hides least."""
    canvas = cast(FigureCanvasAgg, axes.figure.canvas)
    renderer = canvas.get_renderer()
    axes.autoscale_view()  # before positions are computed, rather than at the end
    shown = [axes.transData.transform(line) for line in lines]
    dots = [_box(at, _DOT_PT) for line in shown for at in line]
    taken: list[transforms.Bbox] = []
    for xy, text, color in texts:
        written = axes.annotate(
            text,
            xy,
            (0, 0),
            textcoords="offset points",
            color=color,
            fontsize=TEXT_PT - 1,
            ha="center",
            va="center",
            zorder=5,
        )

        def cost(place: tuple[float, float], written=written) -> float:
            written.set_position(place)
            box = written.get_window_extent(renderer)
            hidden = sum(map(box.overlaps, dots)) + 2 * sum(map(box.overlaps, taken))
            hidden += 2 * (not _is_inside(box, axes))
            return hidden + 0.5 * sum(_crosses(line, box) for line in shown)

        written.set_position(min(_PLACES, key=cost))
        # Padded, so that adjacent numbers do not read as one.
        taken.append(written.get_window_extent(renderer).padded(_DOT_PT))


def _box(at: np.ndarray, points: float) -> transforms.Bbox:
    """Returns a square around a position, in pixels."""
    half = points * DOTS_PER_INCH / 72 / 2
    return transforms.Bbox([at - half, at + half])


def _crosses(line: np.ndarray, box: transforms.Bbox) -> bool:
    return paths.Path(line).intersects_bbox(box, filled=False)


def _is_inside(box: transforms.Bbox, axes: Axes) -> bool:
    outer = transforms.Bbox.union([axes.bbox, box])
    return np.array_equal(outer.extents, axes.bbox.extents)


def _caption(curves: guidance_curves.Curves, command: str) -> str:
    lines = [
        f"Each point: {curves.command}, and its guidance",
        f"Drawn by: {command} (absolute paths are shortened)",
    ]
    return "\n".join(
        textwrap.fill(line, _WRAP, subsequent_indent="  ", break_on_hyphens=False)
        for line in lines
    )
