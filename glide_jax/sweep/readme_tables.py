"""Keeps the tables of a page what the rows of finished runs say.

A page names, between two comments, the sweep and the metrics that it shows:

    <!-- sweep lr_batch: validation/loss, loss -->
    | ... made from experiments/results/sweeps/lr_batch.jsonl ... |
    <!-- end of sweep -->
"""

from __future__ import annotations

import pathlib
import re

from glide_jax.errors import UserError
from glide_jax.sweep import report, result

END = "<!-- end of sweep -->"
_TABLE = re.compile(
    rf"<!-- sweep (?P<name>[\w-]+): (?P<metrics>[^\n]+?) -->\n.*?{END}", re.DOTALL
)


def fill(page: str, folder: pathlib.Path) -> str:
    """The page with every marked table made anew from FOLDER/NAME.jsonl.

    Raises:
      UserError: rows that are missing or of another schema, or without a metric.
    """

    def make(found: re.Match) -> str:
        path = folder / f"{found['name']}.jsonl"
        rows = result.read_rows(path)
        names = [name.strip() for name in found["metrics"].split(",")]
        for name in names:
            if name not in report.metric_names(rows):
                raise UserError(
                    f"{path} has no metric {name!r}; use some of "
                    f"{', '.join(report.metric_names(rows))}"
                )
        first = found[0].partition("\n")[0]
        return f"{first}\n{report.to_markdown(rows, names)}\n{END}"

    return _TABLE.sub(make, page)
