"""A table of the paths and captions of pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glide_jax.data import schema, source_kinds

FORMS = ("csv:FILE.csv",)


def open_source(place: source_kinds.Place) -> schema.Source:
    """Opens a CSV file."""
    from glide_jax.data import csv_table

    return csv_table.CsvTable.open(
        place.where, captions_required=place.captions_required
    )
