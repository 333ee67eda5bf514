"""The tables in pages equal those of the committed rows."""

from __future__ import annotations

import pytest

from glide_jax.sweep import report, result
from tests import fake_devices

ROWS = fake_devices.ROOT / "experiments" / "results" / "sweeps"
PAGES = ("docs/sweeps.md", "experiments/README.md")


@pytest.mark.parametrize("page", PAGES)
def test_no_table_is_out_of_date(page):
    path = fake_devices.ROOT / page
    text = path.read_text() if path.is_file() else ""
    assert report.fill_tables(text, ROWS) == text, (
        "run experiments/figures/sweep_tables.py"
    )


def test_every_file_of_rows_that_the_project_shows_is_read():
    for path in ROWS.parent.glob("curves/*.jsonl"):
        assert result.read_rows(path)


def test_every_committed_row_has_this_schema_and_belongs_to_its_file():
    for path in ROWS.glob("*.jsonl"):
        rows = result.read_rows(path)
        assert rows
        assert {row["sweep"] for row in rows} == {path.stem}
        assert len({row["id"] for row in rows}) == len(rows)
