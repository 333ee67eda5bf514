"""A source over the pictures that the rows of a table name.

Paths of pictures are relative to the table. Several rows of one picture are several
captions of one record. `csv_table` and `parquet_table` read the rows.
"""

from __future__ import annotations

import abc
import pathlib
from typing import ClassVar, NamedTuple

from glide_jax.data import (
    caption_text,
    retrying_reads,
    schema,
    source_options,
    source_report,
)
from glide_jax.errors import UserError
from glide_jax.runtime import paths

IMAGE_COLUMNS = ("image", "file_name")  # the defaults, in this order
NO_PICTURE = "row without a picture"
NO_CAPTION = "row without a caption"


class Record(NamedTuple):
    """A picture by its path in the table, its captions, and its place for messages."""

    picture: str
    texts: tuple[str, ...]
    place: str


class PictureTable(abc.ABC):
    """A source over the records of a table, in its order.

    Attributes:
      KIND: of the specification, and the suffix of its files.
      FAULTS: what a table that cannot be read raises.
      report: the rows that are used and skipped.
    """

    KIND: ClassVar[str]
    FAULTS: ClassVar[tuple[type[Exception], ...]]

    def __init__(
        self,
        path: pathlib.Path,
        *,
        image: str = "",
        caption: str = "",
        captions: str = "",
        captions_required: bool = True,
    ) -> None:
        """Reads the rows of the table.

        Args:
          path: the table.
          image: the column of the paths; "": the first of `IMAGE_COLUMNS`.
          caption: the column of the captions; "": the first of
            `caption_text.DEFAULT_COLUMNS`.
          captions: one of `source_options.POLICIES`, or "".
          captions_required: False: rows without a caption are used, with caption "".

        Raises:
          UserError: the file cannot be read, lacks a column, or has no usable row.
        """
        self._path, self._policy = path, captions
        self._captions_required = captions_required
        self.report = source_report.SourceReport()
        try:
            self._records = self._read(image, caption)
        except self.FAULTS as fault:
            detail = (str(fault).strip() or type(fault).__name__).splitlines()[0]
            raise UserError(
                f"{self!r} cannot be read as a table ({detail}); repair it"
            ) from fault
        if not self._records:
            raise UserError(
                f"{self!r} has no usable row ({self.report.describe() or 'no rows'});"
                " each row needs a picture, relative to the file, and a caption"
            )
        self.report.used = source_report.used(len(self), captions_required)

    @classmethod
    def open(cls, where: str, *, captions_required: bool = True) -> PictureTable:
        """Opens "FILE?image=COLUMN&caption=COLUMN&captions=first|random|join".

        Raises:
          UserError: an unknown option, or as the class.
        """
        name, _, query = where.partition("?")
        spec = f"{cls.KIND}:{where}"
        options = source_options.parse_query(query, source_options.NAMES, spec)
        return cls(
            paths.local_path(name, f"source {cls.KIND}"),
            image=options.get("image", ""),
            caption=options.get("caption", ""),
            captions=source_options.check_policy(options.get("captions", ""), spec),
            captions_required=captions_required,
        )

    @abc.abstractmethod
    def _read(self, image: str, caption: str) -> list[Record]:
        """Returns the records of the columns; counts the rows that are not used."""

    def _find_columns(
        self, names: list[str], image: str, caption: str
    ) -> tuple[str, str]:
        """Returns the names of the columns of pictures and captions.

        Raises:
          UserError: the table lacks one.
        """
        return (
            self._find_column(names, "image", image, IMAGE_COLUMNS),
            self._find_column(names, "caption", caption, caption_text.DEFAULT_COLUMNS),
        )

    def _find_column(
        self, names: list[str], option: str, given: str, defaults: tuple[str, ...]
    ) -> str:
        wanted = (given,) if given else defaults
        found = next((name for name in wanted if name in names), None)
        if found is None:
            raise UserError(
                f"{self!r} has no column {' or '.join(wanted)}, only"
                f" {', '.join(names) or 'none'}; name it as"
                f" {self.KIND}:FILE.{self.KIND}?{option}=COLUMN"
            )
        return found

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"{self.KIND}:{self._path}"

    def __getitem__(self, index: int) -> schema.Example:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self!r}")
        picture, texts, place = self._records[index]
        image = retrying_reads.read_whole(
            self._path.parent / picture,
            retrying_reads.MAX_IMAGE_BYTES,
            "huge image",
            place,
        )
        return caption_text.make_example(image, texts or ("",), place, self._policy)

    def files(self) -> list[pathlib.Path]:
        """Every file that the records are read from."""
        folder = self._path.parent
        return [self._path, *(folder / record.picture for record in self._records)]
