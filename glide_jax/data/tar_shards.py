"""Reads webdataset tars at random, by an index of their members.

The layout is img2dataset's: a picture KEY.jpg with KEY.txt (the caption) and KEY.json
(with "caption", used without a caption file), see `record_members`. NAME.parquet beside
NAME.tar may contain captions by "key". Each tar is indexed once, see `tar_index`.
Records are then read by offset, so any order is possible without unpacking or shuffle
buffers.

The complete records of a truncated or damaged tar are read; each damaged offset counts
as one bad record.
"""

from __future__ import annotations

import functools
import itertools
import pathlib
from concurrent import futures

import numpy as np

from glide_jax.data import (
    caption_tables,
    caption_text,
    record_members,
    retrying_reads,
    schema,
    source_options,
    source_report,
    tar_index,
    tar_paths,
)
from glide_jax.errors import UserError
from glide_jax.runtime import user_cache, wording

# Threads that index tars; on network disks the latency of small reads dominates.
_WALKERS = 8


class TarShards:
    """A source over the records of tars, in natural order of the tars.

    Attributes:
      paths: the tars.
      tables: the Parquet files that captions were read from.
      report: the records and files that are used and skipped.
    """

    def __init__(
        self,
        where: str,
        cache_dir: pathlib.Path | None = None,
        *,
        options: source_options.Options | None = None,
        captions_required: bool = True,
    ) -> None:
        """Opens the tars of a place, see `tar_paths.expand`.

        Args:
          where: the place, without options.
          cache_dir: the folder of cached indices; None: the user's cache.
          options: which files of a sample are used; None: the defaults.
          captions_required: False: pictures without a caption are records as well.

        Raises:
          UserError: a file is missing or not a tar, or there is no usable record.
        """
        self._where = where
        self._options = options or source_options.Options()
        self._captions_required = captions_required
        self.paths, skipped = tar_paths.expand(where)
        folder = cache_dir or user_cache.folder()
        with futures.ThreadPoolExecutor(_WALKERS) as pool:
            read = functools.partial(
                tar_index.load, cache_dir=folder, options=self._options
            )
            found = list(pool.map(read, self.paths))
        self._stamps = [stamp for _, stamp in found]
        self.report = source_report.SourceReport(skipped=skipped)
        self.tables: list[pathlib.Path] = []
        self._tables, self._texts = [], []
        for path, (index, _) in zip(self.paths, found, strict=True):
            self.report.skipped.update(index.skipped)
            self._add_shard(path, index)
        self._ends = np.cumsum([len(table) for table in self._tables])
        self._complete_report([index for index, _ in found])

    def _add_shard(self, path: pathlib.Path, index: tar_index.Index) -> None:
        """Adds the usable rows of a tar, with their captions from a Parquet file."""
        table = index.table
        texts = self._read_parquet(path.with_suffix(".parquet"), index)
        # The counts avoid reading the memory-mapped table.
        if self._captions_required and index.without_caption:
            is_used = (table["text_at"] >= 0) | (table["json_at"] >= 0)
            is_used |= table["image_size"] == tar_index.BEYOND
            if texts is not None:
                is_used |= [bool(each) for each in texts]
            self.report.skipped[record_members.NO_CAPTION] += int((~is_used).sum())
            table = table[is_used]
            if texts is not None:
                texts = list(itertools.compress(texts, is_used))
        self._tables.append(table)
        self._texts.append(texts)

    def _read_parquet(
        self, path: pathlib.Path, index: tar_index.Index
    ) -> list[tuple[str, ...]] | None:
        """Reads the captions of the rows, () for none; None if no table is needed.

        It is needed for an option with its column, and for pictures without a caption
        file.
        """
        is_needed = self._options.column or index.without_text
        if self._options.text or not is_needed or not path.is_file():
            return None
        held = caption_tables.read(
            path, "key", self._options.column, self.report.skipped
        )
        if held is None:
            return None
        self.tables.append(path)
        keys = (key.decode(errors="replace") for key in index.table["key"].tolist())
        return [held.get(key) or held.get(key.rpartition("/")[2], ()) for key in keys]

    def files(self) -> list[pathlib.Path]:
        """Every file that the records are read from."""
        return [*self.paths, *self.tables]

    def _complete_report(self, indices: list[tar_index.Index]) -> None:
        used = source_report.used(len(self), self._captions_required)
        self.report.used = f"{used} in {wording.counted(len(self.paths), 'tar')}"
        joined = sum(index.joined for index in indices)
        if joined:
            members = wording.counted(joined, "member")
            self.report.notes.append(f"{members} after an end mark read (joined tars)")
        self.report.note_dotted(sum(index.dotted for index in indices))
        if self.tables:
            files = wording.counted(len(self.tables), "Parquet file")
            self.report.notes.append(f"captions from {files} beside the tars")
        if not len(self):
            described = self.report.describe()
            raise UserError(
                f"{self!r} has no usable record ({described}); pack a picture KEY.jpg"
                " and its caption KEY.txt for each KEY, as img2dataset does"
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __repr__(self) -> str:
        return f"webdataset:{self._where}"

    def _read(
        self, shard: int, row: np.void, field: str, limit: int, key: str
    ) -> bytes | None:
        """Reads a field of at most `limit` bytes; None if the record lacks it."""
        offset, size = int(row[f"{field}_at"]), int(row[f"{field}_size"])
        if offset < 0:
            return None
        stamp = self._stamps[shard]
        if offset + size > stamp.size:
            detail = f"{field} exceeds its {stamp.size} bytes"
            raise schema.BadRecordError("truncated tar", key, detail)
        if size > limit:
            kind = "huge image" if field == "image" else "huge caption"
            raise schema.BadRecordError(kind, key, f"{size} bytes")
        # Each read opens the file, which is thread-safe for any number of tars.
        return retrying_reads.read_span(self.paths[shard], offset, size, stamp, key)

    def _captions(
        self, shard: int, place: int, row: np.void, key: str
    ) -> tuple[str, ...]:
        """Reads the captions: caption file, else table, else JSON file."""
        text = self._read(shard, row, "text", retrying_reads.MAX_CAPTION_BYTES, key)
        if text is not None:
            return (caption_text.from_text(text, key),)
        texts = self._texts[shard]
        if texts is not None and texts[place]:
            return texts[place]
        record = self._read(shard, row, "json", retrying_reads.MAX_JSON_BYTES, key)
        if record is not None:
            return caption_text.from_json(
                record, key, self._options.column, required=self._captions_required
            )
        return ("",)

    def __getitem__(self, index: int) -> schema.Example:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self!r}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        table = self._tables[shard]
        place = index - int(self._ends[shard]) + len(table)
        row = table[place]
        key = f"{self.paths[shard].name}:{row['key'].decode(errors='replace')}"
        image = self._read(shard, row, "image", retrying_reads.MAX_IMAGE_BYTES, key)
        assert image is not None  # every row has a picture
        texts = self._captions(shard, place, row, key)
        return caption_text.make_example(image, texts, key, self._options.captions)
