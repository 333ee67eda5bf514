"""The status of a sweep: a table of its runs, read from the disk."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Sequence

from glide_jax.runtime import metric_writers
from glide_jax.sweep import run_list
from glide_jax.sweep.state import RunRecord

# Letters of a failed run's reason in the table.
REASON_LENGTH = 60
COLUMNS = ("id", "run", "state", "attempts", "so far", "time")


def table(plan: run_list.Plan, root: pathlib.Path) -> str:
    """Returns a line for each run, the reasons too long for it, and counts by state."""
    records = [(run, RunRecord(root, run.id)) for run in plan.runs]
    rows = [_row(run, record) for run, record in records]
    counts = collections.Counter(row[2] for row in rows)
    summary = ", ".join(f"{count} {state}" for state, count in counts.items())
    reasons = [(run.id, record.reason()) for run, record in records]
    long = [f"{name}: {text}" for name, text in reasons if len(text) > REASON_LENGTH]
    return "\n".join([aligned([COLUMNS, *rows]), *long, f"{plan.name}: {summary}"])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Returns the rows as lines of aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _row(run: run_list.SweepRun, record: RunRecord) -> tuple[str, ...]:
    attempts = len(record.attempts())
    # Rounded before it is divided, so that 59.5 s are 0:01:00.
    seconds = round(record.seconds())
    return (
        run.id,
        run.label,
        record.state(),
        str(attempts) if attempts else "",
        _shortened(record.reason()) or _so_far(record.folder / "metrics.jsonl"),
        f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        if attempts
        else "",
    )


def _shortened(text: str) -> str:
    return text if len(text) <= REASON_LENGTH else f"{text[: REASON_LENGTH - 3]}..."


def _so_far(path: pathlib.Path) -> str:
    """Returns the latest step and loss of a training run."""
    rows = metric_writers.read_metrics(path) if path.is_file() else []
    rows = [row for row in rows if "loss" in row]
    return f"step {rows[-1]['step']}, loss {rows[-1]['loss']:.4g}" if rows else ""
