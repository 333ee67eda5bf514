"""Reads a CSV file with a picture and a caption in each row.

Paths of pictures are relative to the file. Several rows of one picture are several
captions of one record, as in the tables of a folder.
"""

from __future__ import annotations

import collections
import csv
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from glide_jax.data import (
    caption_text,
    retrying_reads,
    schema,
    source_options,
    source_report,
)
from glide_jax.errors import UserError
from glide_jax.runtime import csv_files, paths

IMAGE_COLUMNS = ("image", "file_name")  # the defaults, in this order
NO_PICTURE = "row without a picture"
NO_CAPTION = "row without a caption"
MISSING_PICTURE = "row whose picture does not exist"
WRONG_FIELDS = "row with missing or surplus fields"
# Line numbers that a message lists for each reason.
LISTED = 5


class _Record(NamedTuple):
    """A picture by its path in the table, its captions, and its first line."""

    picture: str
    texts: tuple[str, ...]
    line: int


def open_csv(where: str, *, captions_required: bool = True) -> CsvTable:
    """Opens "FILE.csv?image=COLUMN&caption=COLUMN&captions=first|random|join".

    Raises:
      UserError: an unknown option, or as `CsvTable`.
    """
    name, _, query = where.partition("?")
    spec = f"csv:{where}"
    options = source_options.parse_query(query, source_options.NAMES, spec)
    return CsvTable(
        paths.local_path(name, "source csv"),
        image=options.get("image", ""),
        caption=options.get("caption", ""),
        captions=source_options.check_policy(options.get("captions", ""), spec),
        captions_required=captions_required,
    )


class CsvTable:
    """A source over the pictures that a CSV file names, in its order.

    Attributes:
      report: the rows that are used and skipped, with line numbers.
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
        """Reads the table and checks that its pictures exist.

        Args:
          path: UTF-8, or UTF-16 with a byte order mark, with a header; columns are
            separated by commas, semicolons or tabs.
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
        self._skipped: dict[str, list[int]] = collections.defaultdict(list)
        rows: dict[str, _Record] = {}
        try:
            for picture, text, line in self._read(image, caption):
                before = rows.get(picture, _Record(picture, (), line))
                rows[picture] = before._replace(texts=(*before.texts, text))
        except (OSError, ValueError, csv.Error) as fault:
            detail = (str(fault).strip() or type(fault).__name__).splitlines()[0]
            raise UserError(
                f"{self!r} cannot be read as a table ({detail}); repair it"
            ) from fault
        self._records = list(rows.values())
        self._complete_report()

    def _read(self, image: str, caption: str) -> Iterator[tuple[str, str, int]]:
        """Yields picture, caption and line number of each usable row."""
        encoding = csv_files.encoding(self._path)
        with self._path.open(encoding=encoding, newline="") as file:
            separator, num_above = csv_files.find_separator(file)
            reader = csv.reader(file, delimiter=separator, strict=True)
            header = [name.strip() for name in next(reader, [])]
            at_image = self._find(header, "image", image, IMAGE_COLUMNS)
            at_caption = self._find(
                header, "caption", caption, caption_text.DEFAULT_COLUMNS
            )
            line = reader.line_num + num_above + 1
            try:
                for row in reader:
                    if row:
                        yield from self._usable(row, header, at_image, at_caption, line)
                    # A quoted field may span lines; a row is named by its first.
                    line = reader.line_num + num_above + 1
            except csv.Error as fault:
                raise csv.Error(f"line {line}: {fault}") from fault

    def _find(
        self, header: list[str], option: str, given: str, defaults: tuple[str, ...]
    ) -> int:
        """Returns the index of a column.

        Raises:
          UserError: the table does not have it.
        """
        wanted = (given,) if given else defaults
        found = next((name for name in wanted if name in header), None)
        if found is None:
            raise UserError(
                f"{self!r} has no column {' or '.join(wanted)}, only"
                f" {', '.join(header) or 'none'}; name it as"
                f" csv:FILE.csv?{option}=COLUMN"
            )
        return header.index(found)

    def _usable(
        self,
        row: list[str],
        header: list[str],
        at_image: int,
        at_caption: int,
        line: int,
    ) -> Iterator[tuple[str, str, int]]:
        """Yields a row if it can be used, and counts it by the reason otherwise."""
        if len(row) != len(header):
            self._skipped[WRONG_FIELDS].append(line)
            return
        picture, text = row[at_image].strip(), row[at_caption].strip()
        if not picture:
            self._skipped[NO_PICTURE].append(line)
        elif not (text or not self._captions_required):
            self._skipped[NO_CAPTION].append(line)
        elif not (self._path.parent / picture).is_file():
            self._skipped[MISSING_PICTURE].append(line)
        else:
            yield picture, text, line

    def _complete_report(self) -> None:
        for reason, lines in self._skipped.items():
            self.report.skipped[reason] = len(lines)
            listed = ", ".join(map(str, lines[:LISTED]))
            more = ", ..." if len(lines) > LISTED else ""
            self.report.notes.append(f"{reason}: line {listed}{more}")
        if not self._records:
            raise UserError(
                f"{self!r} has no usable row ({self.report.describe() or 'no rows'});"
                " each row needs a picture, relative to the file, and a caption"
            )
        self.report.used = source_report.used(len(self), self._captions_required)

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"csv:{self._path}"

    def __getitem__(self, index: int) -> schema.Example:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self!r}")
        record = self._records[index]
        key = f"{self._path.name}:{record.line}:{record.picture}"
        image = retrying_reads.read_whole(
            self._path.parent / record.picture,
            retrying_reads.MAX_IMAGE_BYTES,
            "huge image",
            key,
        )
        return caption_text.make_example(image, record.texts, key, self._policy)

    def files(self) -> list[pathlib.Path]:
        """Every file that the records are read from."""
        folder = self._path.parent
        return [self._path, *(folder / record.picture for record in self._records)]
