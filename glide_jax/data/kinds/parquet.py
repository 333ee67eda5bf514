"""A Parquet table of the paths and captions of pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glide_jax.data import schema, source_kinds

FORMS = ("parquet:FILE.parquet",)


def open_source(place: source_kinds.Place) -> schema.Source:
    """Opens a Parquet file."""
    from glide_jax.data import parquet_table

    return parquet_table.ParquetTable.open(
        place.where, captions_required=place.captions_required
    )
