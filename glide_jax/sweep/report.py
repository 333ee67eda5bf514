"""Writes the report of a sweep, and tables of its rows in other pages."""

from __future__ import annotations

import csv
import io
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from glide_jax.errors import UserError
from glide_jax.runtime import files
from glide_jax.sweep import plots, result, run_list, summary
from glide_jax.sweep.state import RunRecord

Row = Mapping[str, Any]
TABLE_END = "<!-- end of sweep -->"
_TABLE = re.compile(
    rf"<!-- sweep (?P<name>[\w-]+): (?P<metrics>[^\n]+?) -->\n.*?{TABLE_END}", re.DOTALL
)

BOLD_RULE = (
    "Bold: the best mean, where every other one is farther away than the spread over"
    " seeds or the standard error."
)


def write(
    plan: run_list.Plan, root: pathlib.Path, *, all_plots: bool = False
) -> list[pathlib.Path]:
    """Writes the report into the sweep's folder; returns the paths.

    Args:
      plan: The sweep.
      root: Its folder.
      all_plots: Whether to plot also what `plots.main_metrics` leaves out.

    Raises:
      UserError: No run is finished.
    """
    rows = result.make_rows(plan, root)
    if not rows:
        raise UserError(
            f"--root={root}: no run of {plan.name} is finished, so there is nothing to "
            f"report; --status shows their progress"
        )
    table, page = root / "results.csv", root / "results.md"
    try:
        files.write_text(table, to_csv(rows))
        files.write_text(page, make_page(plan, root, rows))
        names = plots.varied_metrics(rows) if all_plots else plots.main_metrics(rows)
        return [table, page, *plots.draw(rows, root / "plots", names)]
    except OSError as error:
        raise UserError(
            f"--root={root}: the report cannot be written there ({error.strerror}: "
            f"{error.filename}); free some space, or remove that path"
        ) from error


def to_csv(rows: Sequence[Row]) -> str:
    """Returns a header and a line for each row: swept values, then metrics."""
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
    """Returns a table of swept values and metrics, by default of all metrics.

    Runs that differ in their seed share a line: the mean, and ± the sample standard
    deviation over the seeds. The best mean of each metric is bold where no other is
    nearer than the spread.
    """
    groups = summary.join_seeds(rows)
    has_seeds = len(groups) < len(rows)
    keys = swept_keys([{"overrides": group.overrides} for group in groups])
    names = list(names) or metric_names(rows)
    header = [*keys, *(["runs"] if has_seeds else []), *names]
    lines = [header, ["---"] * len(header)]
    best = {name: summary.best(groups, name) for name in names}
    for group in groups:
        values = [run_list.shown(group.overrides.get(key, "")) for key in keys]
        count = [str(group.runs)] if has_seeds else []
        cells = [_shown(group.metrics.get(name), best[name]) for name in names]
        lines.append([*values, *count, *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def make_page(plan: run_list.Plan, root: pathlib.Path, rows: Sequence[Row]) -> str:
    """Returns results.md: the table, remarks, unfinished runs, and one command."""
    page = f"# {plan.name}\n\n{to_markdown(rows)}\n\n{BOLD_RULE}\n"
    if plan.verb == "train":
        page += f"\n{result.TRAINING_RULE}\n"
    if lines := result.warnings(rows):
        page += "\nRead with care:\n\n" + "".join(f"- {line}\n" for line in lines)
    records = [(run, RunRecord(root, run.id)) for run in plan.runs]
    unfinished = [(run, record) for run, record in records if not record.is_finished]
    if unfinished:
        page += "\nNot finished:\n\n"
        page += "".join(f"- {run.label}: {_state(rec)}\n" for run, rec in unfinished)
    command = result.command(rows[0]["verb"], rows[0]["flags"])
    title = "The first row's command (absolute paths are shortened)"
    return f"{page}\n{title}:\n\n```\n{command}\n```\n"


def fill_tables(page: str, folder: pathlib.Path) -> str:
    """Returns the page with every marked table updated from FOLDER/NAME.jsonl.

    Two comments enclose a table; the first states the sweep and the metrics:

        <!-- sweep lr_batch: validation/loss, loss -->
        | ... made from experiments/results/sweeps/lr_batch.jsonl ... |
        <!-- end of sweep -->

    Raises:
      UserError: The rows are missing, of another schema, or lack a metric.
    """

    def make(match: re.Match) -> str:
        path = folder / f"{match['name']}.jsonl"
        rows = result.read_rows(path)
        names = [name.strip() for name in match["metrics"].split(",")]
        for name in names:
            if name not in metric_names(rows):
                raise UserError(
                    f"{path} has no metric {name!r}; use some of "
                    f"{', '.join(metric_names(rows))}"
                )
        first = match[0].partition("\n")[0]
        return f"{first}\n{to_markdown(rows, names)}\n{TABLE_END}"

    return _TABLE.sub(make, page)


def swept_keys(rows: Sequence[Row]) -> list[str]:
    """Returns all keys that a row overrides, in the order of their first row."""
    return list(dict.fromkeys(key for row in rows for key in row["overrides"]))


def metric_names(rows: Sequence[Row]) -> list[str]:
    """Returns all metrics that a row has, in the order of their first row."""
    return list(dict.fromkeys(name for row in rows for name in row["metrics"]))


def _cell(value: Any) -> Any:
    return run_list.shown(value) if isinstance(value, tuple | list) else value


def _shown(value: summary.Value | None, best: float | None) -> str:
    if value is None:
        return ""
    text = f"{value.mean:.4g}"
    if value.spread is not None:
        text += f" ± {value.spread:.2g}"
    return f"**{text}**" if value.mean == best else text


def _state(record: RunRecord) -> str:
    reason = record.reason()
    return f"{record.state()}: {reason}" if reason else record.state()
