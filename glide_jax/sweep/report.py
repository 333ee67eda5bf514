"""What came of a sweep: results.csv, results.md, and plots of each metric."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from glide_jax.errors import UserError
from glide_jax.sweep import plan as plans
from glide_jax.sweep import plots, result
from glide_jax.sweep.state import Entry

Row = Mapping[str, Any]


def write(plan: plans.Plan, root: pathlib.Path) -> list[pathlib.Path]:
    """Writes them into the sweep's folder; returns their paths.

    Raises:
      UserError: no run is finished.
    """
    rows = result.make_rows(plan, root)
    if not rows:
        raise UserError(
            f"--root={root}: no run of {plan.name} is finished, so there is nothing to "
            f"report; --status shows how far they are"
        )
    table, page = root / "results.csv", root / "results.md"
    try:
        table.write_text(to_csv(rows))
        page.write_text(make_page(plan, root, rows))
        return [table, page, *plots.draw(rows, root / "plots")]
    except OSError as error:
        raise UserError(
            f"--root={root}: the report cannot be written there ({error.strerror}: "
            f"{error.filename}); make room or clear the way"
        ) from error


def to_csv(rows: Sequence[Row]) -> str:
    """A header and a line for each row: swept values, then metrics."""
    keys, names = swept_keys(rows), metric_names(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", *keys, *names, "seconds", "attempts"])
    for row in rows:
        values = [_cell(row["overrides"].get(key)) for key in keys]
        measured = [_cell(row["metrics"].get(name)) for name in names]
        writer.writerow(
            [row["id"], *values, *measured, row["seconds"], row["attempts"]]
        )
    return text.getvalue()


def to_markdown(rows: Sequence[Row], names: Sequence[str] = ()) -> str:
    """A table of swept values and metrics, of those in `names` where it is given."""
    keys, names = swept_keys(rows), list(names) or metric_names(rows)
    lines = [[*keys, *names], ["---"] * (len(keys) + len(names))]
    for row in rows:
        values = [plans.shown(row["overrides"].get(key, "")) for key in keys]
        lines.append([*values, *(_rounded(row["metrics"].get(n)) for n in names)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def make_page(plan: plans.Plan, root: pathlib.Path, rows: Sequence[Row]) -> str:
    """results.md: the table, what to mind, what is not finished, a run's command."""
    page = f"# {plan.name}\n\n{to_markdown(rows)}\n"
    if found := result.warnings(rows):
        page += "\nRead with care:\n\n" + "".join(f"- {line}\n" for line in found)
    entries = [(run, Entry(root, run.id)) for run in plan.runs]
    open_ = [(run, entry) for run, entry in entries if not entry.is_finished]
    if open_:
        page += "\nNot finished:\n\n"
        page += "".join(f"- {run.label}: {entry.state()}\n" for run, entry in open_)
    return f"{page}\nThe first row's command:\n\n```\n{rows[0]['command']}\n```\n"


def swept_keys(rows: Sequence[Row]) -> list[str]:
    """All keys that a row overrides, in the order of their first row."""
    return list(dict.fromkeys(key for row in rows for key in row["overrides"]))


def metric_names(rows: Sequence[Row]) -> list[str]:
    """All metrics that a row has, in the order of their first row."""
    return list(dict.fromkeys(name for row in rows for name in row["metrics"]))


def _cell(value: Any) -> Any:
    return plans.shown(value) if isinstance(value, tuple | list) else value


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
