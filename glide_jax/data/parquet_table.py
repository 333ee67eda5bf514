"""Reads a Parquet file with a picture and a caption in each row; see `picture_table`.

A cell may be a list of captions. The file that a row names is looked for when it is
read, since a table may have millions of rows: a missing one is a bad record.
"""

from __future__ import annotations

import collections

import pyarrow as pa
from pyarrow import parquet

from glide_jax.data import caption_text, picture_table


class ParquetTable(picture_table.PictureTable):
    """A table of which two columns are read."""

    KIND = "parquet"
    FAULTS = (OSError, pa.ArrowException)

    def _read(self, image: str, caption: str) -> list[picture_table.Record]:
        names = parquet.read_schema(self._path).names
        columns = self._find_columns(names, image, caption)
        table = parquet.read_table(self._path, columns=list(columns))
        rows: dict[str, tuple[str, ...]] = collections.defaultdict(tuple)
        for picture, value in zip(
            *(table.column(name).to_pylist() for name in columns), strict=True
        ):
            texts = tuple(filter(None, caption_text.from_value(value)))
            if not isinstance(picture, str) or not picture.strip():
                self.report.skipped[picture_table.NO_PICTURE] += 1
            elif not texts and self._captions_required:
                self.report.skipped[picture_table.NO_CAPTION] += 1
            else:
                rows[picture.strip()] += texts
        return [
            picture_table.Record(picture, texts, f"{self._path.name}:{picture}")
            for picture, texts in rows.items()
        ]
