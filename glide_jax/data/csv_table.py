"""Reads a CSV file with a picture and a caption in each row; see `picture_table`."""

from __future__ import annotations

import collections
import csv
from collections.abc import Iterator

from glide_jax.data import picture_table
from glide_jax.runtime import csv_files

MISSING_PICTURE = "row whose picture does not exist"
WRONG_FIELDS = "row with missing or surplus fields"
# Line numbers that a message lists for each reason.
LISTED = 5


class CsvTable(picture_table.PictureTable):
    """A table in UTF-8, or in UTF-16 with a byte order mark, with a header.

    Columns are separated by commas, semicolons or tabs. The report names the lines of
    skipped rows, and a row whose picture does not exist is one of them.
    """

    KIND = "csv"
    FAULTS = (OSError, ValueError, csv.Error)

    def _read(self, image: str, caption: str) -> list[picture_table.Record]:
        skipped: dict[str, list[int]] = collections.defaultdict(list)
        records: dict[str, picture_table.Record] = {}
        for picture, text, line in self._rows(image, caption, skipped):
            place = f"{self._path.name}:{line}:{picture}"
            before = records.get(picture, picture_table.Record(picture, (), place))
            records[picture] = before._replace(texts=(*before.texts, text))
        for reason, lines in skipped.items():
            self.report.skipped[reason] = len(lines)
            listed = ", ".join(map(str, lines[:LISTED]))
            more = ", ..." if len(lines) > LISTED else ""
            self.report.notes.append(f"{reason}: line {listed}{more}")
        return list(records.values())

    def _rows(
        self, image: str, caption: str, skipped: dict[str, list[int]]
    ) -> Iterator[tuple[str, str, int]]:
        """Yields picture, caption and line number of each usable row."""
        encoding = csv_files.encoding(self._path)
        with self._path.open(encoding=encoding, newline="") as file:
            separator, num_above = csv_files.find_separator(file)
            reader = csv.reader(file, delimiter=separator, strict=True)
            header = [name.strip() for name in next(reader, [])]
            places = [
                header.index(c) for c in self._find_columns(header, image, caption)
            ]
            line = reader.line_num + num_above + 1
            try:
                for row in reader:
                    if row and len(row) != len(header):
                        skipped[WRONG_FIELDS].append(line)
                    elif row:
                        picture, text = (row[place].strip() for place in places)
                        if reason := self._why_unusable(picture, text):
                            skipped[reason].append(line)
                        else:
                            yield picture, text, line
                    # A quoted field may span lines; a row is named by its first.
                    line = reader.line_num + num_above + 1
            except csv.Error as fault:
                raise csv.Error(f"line {line}: {fault}") from fault

    def _why_unusable(self, picture: str, text: str) -> str:
        """Returns the reason to skip a row, or ""."""
        if not picture:
            return picture_table.NO_PICTURE
        if not text and self._captions_required:
            return picture_table.NO_CAPTION
        if not (self._path.parent / picture).is_file():
            return MISSING_PICTURE
        return ""
