"""Updates the tables of a page from the rows of finished runs.

Two comments enclose a table; the first states the sweep and the metrics:

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
    """Returns the page with every marked table updated from FOLDER/NAME.jsonl.

    Raises:
      UserError: The rows are missing, of another schema, or lack a metric.
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
