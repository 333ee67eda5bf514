"""Tables of sweeps in docs/sweeps.md and experiments/README.md, from their rows.

    python experiments/figures/sweep_tables.py
    python experiments/figures/sweep_tables.py --check

Rows are written by `glide sweep --root=DIR --report
--rows=experiments/results/sweeps/NAME.jsonl`; a page says which table it shows, and
where, as glide_jax/sweep/report.py describes. --check changes nothing and ends
with 1 where a page is out of date.
"""

from __future__ import annotations

import argparse
import pathlib

from glide_jax.sweep import report

PAGES = (pathlib.Path("docs/sweeps.md"), pathlib.Path("experiments/README.md"))
ROWS = pathlib.Path("experiments/results/sweeps")


def run() -> None:
    """Writes the pages that are out of date, or names them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    for path in filter(pathlib.Path.is_file, PAGES):
        page = path.read_text()
        made = report.fill_tables(page, ROWS)
        if made != page and check:
            raise SystemExit(f"{path} is out of date; run {__file__} without --check")
        if made != page:
            path.write_text(made)


if __name__ == "__main__":
    run()
