"""Reads a folder of pictures with captions in files beside them or in tables.

A caption file (KEY.txt) precedes a table (metadata.jsonl, metadata.csv, or a Parquet
file, with "file_name" relative to the table), and a table precedes KEY.json.
"""

from __future__ import annotations

import json
import os
import pathlib
import posixpath
from typing import NamedTuple

from glide_jax.data import (
    caption_tables,
    caption_text,
    picture_listing,
    record_members,
    retrying_reads,
    schema,
    source_options,
    source_report,
    tar_paths,
)
from glide_jax.errors import UserError
from glide_jax.runtime import paths, wording

UNUSED_ROW = "table row whose picture has a caption file"
LONE_ROW = "table row without its picture"


class OnlyTarsError(UserError):
    """The folder contains tars and no pictures."""


class _Record(NamedTuple):
    """A picture and the file or the texts of its caption, relative to the root."""

    picture: str
    caption_file: str | None
    texts: tuple[str, ...]


class Folder:
    """A source over the captioned pictures of a folder at any depth, in natural order.

    Attributes:
      tables: the tables of captions that are used.
      report: the records and files that are used and skipped.
    """

    def __init__(
        self,
        directory: str,
        *,
        options: source_options.Options | None = None,
        captions_required: bool = True,
    ) -> None:
        """Lists the folder; `record_members` defines its records.

        Args:
          directory: the folder, without options.
          options: which files of a sample are used; None: the defaults.
          captions_required: False: pictures without a caption are records as well.

        Raises:
          UserError: it is not a folder, or has no usable record.
        """
        self._root = paths.local_path(directory, "folder")
        if not self._root.is_dir():
            hint = ""
            if "?" in directory:
                hint = f"; options after a ? are {', '.join(source_options.NAMES)}"
            raise UserError(
                f"folder:{directory} is not a folder; give the folder of the pictures"
                f"{hint}"
            )
        self._options = options or source_options.Options()
        self._captions_required = captions_required
        names, skipped = picture_listing.list_names(self._root)
        self.report = source_report.SourceReport(skipped=skipped)
        self.tables: list[pathlib.Path] = []
        held = self._read_tables(filter(caption_tables.is_table, names))
        assembled = record_members.assemble(
            (name for name in names if not caption_tables.is_table(name)),
            self._options,
            str(self._root),
            held,
        )
        skipped.update(assembled.skipped)
        self.report.note_dotted(assembled.dotted)
        records = [_with_caption(record, held) for record in assembled.records]
        self._count_rows(records, held)
        if captions_required:
            without = [r for r in records if not (r.caption_file or r.texts)]
            skipped[record_members.NO_CAPTION] += len(without)
            if without:
                first = without[0].picture
                self.report.notes.append(f"without a caption, e.g. {first!r}")
            records = [r for r in records if r.caption_file or r.texts]
        if not records:
            self._refuse(names)
        records.sort(key=lambda record: wording.natural_key(record.picture))
        self._records = records
        self.report.used = source_report.used(len(records), captions_required)

    def _read_tables(self, names) -> caption_tables.Table:
        """Reads the captions of all tables, by the path of the picture."""
        held: caption_tables.Table = {}
        if self._options.text:
            self.report.skipped[caption_tables.NOT_SELECTED] += sum(1 for _ in names)
            return held
        for name in sorted(names, key=wording.natural_key):
            path = self._root / name
            rows = caption_tables.read(
                path, "file_name", self._options.column, self.report.skipped
            )
            if rows is None:
                continue
            self.tables.append(path)
            for given, texts in rows.items():
                picture = posixpath.join(posixpath.dirname(name), given)
                picture = posixpath.normpath(picture)
                held[picture] = held.get(picture, ()) + texts
        if len(self.tables) == 1:
            name = self.tables[0].relative_to(self._root)
            self.report.notes.append(f"captions from {name}")
        elif self.tables:
            self.report.notes.append(f"captions from {len(self.tables)} tables")
        return held

    def _count_rows(self, records: list[_Record], held: caption_tables.Table) -> None:
        if not held:
            return
        named = [record for record in records if record.picture in held]
        has_file = sum(1 for r in named if held[r.picture] and not r.texts)
        self.report.skipped[UNUSED_ROW] += has_file
        self.report.skipped[LONE_ROW] += len(held) - len(named)
        pictures = {record.picture for record in named}
        lone = next((name for name in held if name not in pictures), None)
        if lone is not None:
            rule = "; paths in tables have /" if "\\" in lone else ""
            self.report.notes.append(f"{LONE_ROW}, e.g. {lone!r}{rule}")

    def _refuse(self, names: list[str]) -> None:
        """Raises UserError for a folder without a usable record."""
        pictures = sorted(filter(picture_listing.is_picture, names))
        if not pictures and any(map(tar_paths.is_tar, names)):
            raise OnlyTarsError(f"{self!r} contains tars; use webdataset:{self._root}")
        described = self.report.describe()
        details = f" ({described})" if described else ""
        if not pictures:
            raise UserError(
                f"{self!r} contains no picture{details}; add pictures, each NAME.jpg"
                " with its caption in NAME.txt"
            )
        found = wording.counted(len(pictures), "picture")
        if self._options != source_options.Options():
            raise UserError(
                f"{self!r} has {found}, and none with a caption by the options after"
                f" the ?{details}; omit an option, or use another extension or column"
            )
        first = pathlib.PurePosixPath(pictures[0])
        raise UserError(
            f"{self!r} has {found} and no captions{details}; write the"
            f" caption of {first.name} to {first.with_suffix('.txt').name} beside it,"
            " and so on, or all captions to metadata.jsonl, a row each, e.g."
            f" {json.dumps({'file_name': str(first), 'text': 'a caption'})}"
        )

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"folder:{self._root}"

    def __getitem__(self, index: int) -> schema.Example:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self!r}")
        record = self._records[index]
        # A file name may not be valid Unicode.
        key = os.fsencode(record.picture).decode(errors="replace")
        picture = self._root / record.picture
        try:
            texts = self._captions(record, picture, key)
        except schema.BadRecordError:
            if self._captions_required:
                raise
            texts = ("",)
        image = retrying_reads.read_whole(
            picture, retrying_reads.MAX_IMAGE_BYTES, "huge image", key
        )
        return caption_text.make_example(image, texts, key, self._options.captions)

    def _captions(
        self, record: _Record, picture: pathlib.Path, key: str
    ) -> tuple[str, ...]:
        if record.caption_file is None:
            return record.texts or ("",)
        path = self._root / record.caption_file
        if record_members.kind_of(path.name) == record_members.TEXT:
            return (
                caption_text.from_text(
                    retrying_reads.read_caption(path, picture, key), key
                ),
            )
        content = retrying_reads.read_caption(
            path, picture, key, retrying_reads.MAX_JSON_BYTES
        )
        return caption_text.from_json(
            content, key, self._options.column, required=self._captions_required
        )

    def files(self) -> list[pathlib.Path]:
        """Every file that the records are read from."""
        used = {
            name: None
            for record in self._records
            for name in (record.picture, record.caption_file)
            if name
        }
        return [*self.tables, *(self._root / name for name in used)]


def _with_caption(record: record_members.Record, held: caption_tables.Table) -> _Record:
    """Selects the caption: caption file, else table, else JSON file."""
    texts = () if record.text else held.get(record.picture, ())
    return _Record(
        record.picture, record.text or (None if texts else record.json), texts
    )
