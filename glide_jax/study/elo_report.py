"""Reports ratings as a table, as JSON and as a picture with error bars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from glide_jax.runtime import wording
from glide_jax.study import elo

SCHEMA = 1
_PANEL_INCHES, _ROW_INCHES = 4.2, 0.42


def table(estimates: Mapping[str, elo.Estimate]) -> list[list[str]]:
    """Returns a header and a row for each model, best of the first question first.

    A cell is "82.7 [60.1, 104.2]", or "" if a question has no votes on the model.
    """
    rows = [["model", *estimates]]
    for model in _order(estimates):
        rows.append([model, *(_cell(e, model) for e in estimates.values())])
    return rows


def _order(estimates: Mapping[str, elo.Estimate]) -> list[str]:
    """Returns all models by their ratings in the first question that has them."""
    rated: dict[str, tuple[int, float]] = {}
    for number, estimate in enumerate(estimates.values()):
        for name, rating in zip(estimate.tally.models, estimate.ratings, strict=True):
            rated.setdefault(name, (number, -rating))
    return sorted(rated, key=rated.__getitem__)


def _cell(estimate: elo.Estimate, model: str) -> str:
    if model not in estimate.tally.models:
        return ""
    i = estimate.tally.models.index(model)
    rated = _rated(estimate.ratings[i], estimate.interval[:, i])
    return f"{rated['elo']:.1f} [{_end(rated['low'])}, {_end(rated['high'])}]"


def _end(value: float | None) -> str:
    return "open" if value is None else f"{value:.1f}"


def markdown(estimates: Mapping[str, elo.Estimate], command: str) -> str:
    """Returns the ratings, and difference and implied win rate of every two models."""
    lines = ["# Elo ratings", "", f"`{command}`", "", *_grid(table(estimates)), ""]
    lines += [
        f"Brackets: {elo.LEVEL:.0%} bootstrap intervals. Only differences have a"
        " meaning; the mean is 0.",
    ]
    for question, estimate in estimates.items():
        rows = [["model", "against", "Elo", "implied wins", "won", "lost", "tie"]]
        rows += [
            [
                entry["a"],
                entry["b"],
                f"{entry['elo']:.1f} [{_end(entry['low'])}, {_end(entry['high'])}]",
                f"{entry['win_rate']:.1%}",
                *(str(entry[word]) for word in ("wins", "losses", "ties")),
            ]
            for entry in _differences(estimate)
        ]
        lines += [
            "",
            f"## {question}: {wording.counted(estimate.tally.votes, 'vote')}",
            "",
            *_grid(rows),
        ]
        if estimate.unbounded:
            lines += ["", unbounded(estimate)]
    return "\n".join(lines) + "\n"


def unbounded(estimate: elo.Estimate) -> str:
    """Returns a remark about resamples without a finite maximum."""
    return (
        f"{estimate.unbounded} resamples had no finite maximum (a model won or lost"
        " everything in them); collect more votes for a finite interval."
    )


def _grid(rows: list[list[str]]) -> list[str]:
    """Returns the lines of a markdown table."""
    # An unescaped bar ends a cell.
    lines = [
        "| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows
    ]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def as_json(estimates: Mapping[str, elo.Estimate]) -> dict[str, Any]:
    """Returns votes, ties, ratings and differences of each question.

    An end of an interval is null if too few votes leave it open.
    """
    return {
        question: {
            "votes": estimate.tally.votes,
            "ties": estimate.tally.ties,
            "unbounded_resamples": estimate.unbounded,
            "elo": {
                model: _rated(estimate.ratings[i], estimate.interval[:, i])
                for i, model in enumerate(estimate.tally.models)
            },
            "differences": _differences(estimate),
        }
        for question, estimate in estimates.items()
    }


def _rated(rating: float, interval: np.ndarray) -> dict[str, float | None]:
    low, high = (float(e) if math.isfinite(e) else None for e in interval)
    return {"elo": float(rating), "low": low, "high": high}


def _differences(estimate: elo.Estimate) -> list[dict[str, Any]]:
    """Returns every two models, the better one first."""
    rates = elo.win_rates(estimate.ratings)
    best = np.argsort(-estimate.ratings, kind="stable")
    entries = []
    for place, i in enumerate(best):
        for j in best[place + 1 :]:
            first, second = (i, j) if i < j else (j, i)
            won = estimate.tally.counts[first, second]
            wins, losses = won[:2] if i < j else won[1::-1]
            entries.append(
                {
                    "a": estimate.tally.models[i],
                    "b": estimate.tally.models[j],
                    **_rated(
                        float(estimate.ratings[i] - estimate.ratings[j]),
                        estimate.difference_interval[:, i, j],
                    ),
                    "win_rate": float(rates[i, j]),
                    "wins": int(wins),
                    "losses": int(losses),
                    "ties": int(won[2]),
                }
            )
    return entries


def draw(estimates: Mapping[str, elo.Estimate], path: str, command: str) -> None:
    """Draws a PNG: a panel for each question, models from best to worst."""
    from matplotlib import figure

    models = _order(estimates)
    longest = max(map(len, models))
    width = min(4.0, 0.09 * longest) + _PANEL_INCHES * len(estimates)
    height = 1.5 + _ROW_INCHES * len(models)
    picture = figure.Figure(figsize=(width, height), layout="constrained")
    panels = picture.subplots(1, len(estimates), sharey=True, squeeze=False)[0]
    for panel, (question, found) in zip(panels, estimates.items(), strict=True):
        _draw_panel(panel, question, found, models)
    panels[0].set_yticks(range(len(models)), models)
    panels[0].invert_yaxis()
    picture.supxlabel(command, fontsize=7, color="0.4", wrap=True)
    picture.savefig(path, dpi=150)


def _draw_panel(
    panel: Any, question: str, estimate: elo.Estimate, models: list[str]
) -> None:
    rows = [models.index(name) for name in estimate.tally.models]
    low, high = estimate.interval
    # An open end extends to the edge of the panel.
    ends = np.concatenate([estimate.ratings, low, high])
    ends = ends[np.isfinite(ends)]
    room = 0.08 * max(float(np.ptp(ends)), 10.0)
    left, right = ends.min() - room, ends.max() + room
    panel.hlines(rows, np.maximum(low, left), np.minimum(high, right), "0.55", lw=3)
    panel.plot(estimate.ratings, rows, "o", color="#3b3bd0", ms=8)
    for rating, row in zip(estimate.ratings, rows, strict=True):
        panel.annotate(
            f"{rating:.0f}",
            (rating, row),
            (0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    panel.set_xlim(left, right)
    panel.set_ylim(-0.7, len(models) - 0.3)
    panel.set_title(
        f"{question} ({wording.counted(estimate.tally.votes, 'vote')})", fontsize=10
    )
    panel.set_xlabel(f"Elo, mean 0; {elo.LEVEL:.0%} intervals", fontsize=9)
    panel.grid(axis="x", color="0.9")
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)
