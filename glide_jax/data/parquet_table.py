"""Reads a Parquet file with a picture and a caption in each row.

The rules are those of a CSV table: paths are relative to the file, and several rows of
one picture are several captions of one record. A cell may be a list of captions. The
file that a row names is looked for when it is read, since a table may have millions of
rows: a missing one is a bad record.
"""

from __future__ import annotations

import collections
import pathlib

import pyarrow as pa
from pyarrow import parquet

from glide_jax.data import (
    caption_text,
    csv_table,
    retrying_reads,
    schema,
    source_options,
    source_report,
)
from glide_jax.errors import UserError
from glide_jax.runtime import paths


def open_parquet(where: str, *, captions_required: bool = True) -> ParquetTable:
    """Opens "FILE.parquet?image=COLUMN&caption=COLUMN&captions=first|random|join".

    Raises:
      UserError: an unknown option, or as `ParquetTable`.
    """
    name, _, query = where.partition("?")
    spec = f"parquet:{where}"
    options = source_options.parse_query(query, source_options.NAMES, spec)
    return ParquetTable(
        paths.local_path(name, "source parquet"),
        image=options.get("image", ""),
        caption=options.get("caption", ""),
        captions=source_options.check_policy(options.get("captions", ""), spec),
        captions_required=captions_required,
    )


class ParquetTable:
    """A source over the pictures that a Parquet file names, in its order.

    Attributes:
      report: the rows that are used and skipped.
    """

    def __init__(
        self,
        path: pathlib.Path,
        *,
        image: str = "",
        caption: str = "",
        captions: str = "",
        captions_required: bool = True,
    ) -> None:
        """Reads two columns of the table; the arguments are those of `CsvTable`.

        Raises:
          UserError: the file cannot be read, lacks a column, or has no usable row.
        """
        self._path, self._policy = path, captions
        self._captions_required = captions_required
        self.report = source_report.SourceReport()
        try:
            names = parquet.read_schema(path).names
            at_image = self._find(names, "image", image, csv_table.IMAGE_COLUMNS)
            at_caption = self._find(
                names, "caption", caption, caption_text.DEFAULT_COLUMNS
            )
            table = parquet.read_table(path, columns=[at_image, at_caption])
        except (OSError, pa.ArrowException) as fault:
            detail = (str(fault).strip() or type(fault).__name__).splitlines()[0]
            raise UserError(
                f"{self!r} cannot be read as a table ({detail}); repair it"
            ) from fault
        rows = self._usable(
            table.column(at_image).to_pylist(), table.column(at_caption).to_pylist()
        )
        self._records = list(rows.items())
        if not self._records:
            raise UserError(
                f"{self!r} has no usable row ({self.report.describe() or 'no rows'});"
                " each row needs a picture, relative to the file, and a caption"
            )
        self.report.used = source_report.used(len(self), captions_required)

    def _find(
        self, names: list[str], option: str, given: str, defaults: tuple[str, ...]
    ) -> str:
        wanted = (given,) if given else defaults
        found = next((name for name in wanted if name in names), None)
        if found is None:
            raise UserError(
                f"{self!r} has no column {' or '.join(wanted)}, only"
                f" {', '.join(names) or 'none'}; name it as"
                f" parquet:FILE.parquet?{option}=COLUMN"
            )
        return found

    def _usable(
        self, pictures: list[object], captions: list[object]
    ) -> dict[str, tuple[str, ...]]:
        """Returns the captions by picture; counts the rows that are not used."""
        rows: dict[str, tuple[str, ...]] = collections.defaultdict(tuple)
        for picture, value in zip(pictures, captions, strict=True):
            texts = tuple(filter(None, caption_text.from_value(value)))
            if not isinstance(picture, str) or not picture.strip():
                self.report.skipped[csv_table.NO_PICTURE] += 1
            elif not texts and self._captions_required:
                self.report.skipped[csv_table.NO_CAPTION] += 1
            else:
                rows[picture.strip()] += texts
        return dict(rows)

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"parquet:{self._path}"

    def __getitem__(self, index: int) -> schema.Example:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self!r}")
        picture, texts = self._records[index]
        key = f"{self._path.name}:{picture}"
        image = retrying_reads.read_whole(
            self._path.parent / picture,
            retrying_reads.MAX_IMAGE_BYTES,
            "huge image",
            key,
        )
        return caption_text.make_example(image, texts or ("",), key, self._policy)

    def files(self) -> list[pathlib.Path]:
        """Every file that the records are read from."""
        folder = self._path.parent
        return [self._path, *(folder / picture for picture, _ in self._records)]
