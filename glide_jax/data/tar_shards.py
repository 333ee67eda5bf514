"""Webdataset tar shards read at random through an index of their members.

The layout is img2dataset's: a picture KEY.jpg with KEY.txt (the caption) and KEY.json
(whose "caption" stands in for a missing caption file), see `record_members`. A Parquet
file beside a tar, NAME.parquet beside NAME.tar, may hold captions by "key". An index is
built once per tar, see `tar_index`. Records are then read by offset, so any order is
possible without unpacking or shuffle buffers.

Of a tar that was cut or damaged the whole records are read; each damaged place counts
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

# Headers are read a few bytes at a time: on network disks waiting dominates.
_WALKERS = 8


class TarShards:
    """A source over all records of some tar shards, in natural order of the shards.

    Attributes:
      paths: the tars.
      tables: the Parquet files that captions were read from.
      report: what is used and what is passed over.
    """

    def __init__(
        self,
        where: str,
        cache_dir: pathlib.Path | None = None,
        *,
        options: source_options.Options | None = None,
        captions_required: bool = True,
    ) -> None:
        """Opens the tars that `where` names, see `tar_paths.expand`.

        Args:
          where: the place, without options.
          cache_dir: where indices are kept; None: the user's cache.
          options: which files of a sample are used; None: the defaults.
          captions_required: False: a picture without a caption is a record as well.

        Raises:
          UserError: there is no such file, it is not a tar, or no record can be used.
        """
        self._where = where
        self._options = options or source_options.Options()
        self._captions_required = captions_required
        self.paths, passed_over = tar_paths.expand(where)
        folder = cache_dir or user_cache.folder()
        with futures.ThreadPoolExecutor(_WALKERS) as pool:
            read = functools.partial(
                tar_index.load, cache_dir=folder, options=self._options
            )
            found = list(pool.map(read, self.paths))
        self._stamps = [stamp for _, stamp in found]
        self.report = source_report.SourceReport(passed_over=passed_over)
        self.tables: list[pathlib.Path] = []
        self._tables, self._texts = [], []
        for path, (index, _) in zip(self.paths, found, strict=True):
            self.report.passed_over.update(index.passed_over)
            self._add_shard(path, index)
        self._ends = np.cumsum([len(table) for table in self._tables])
        self._complete_report([index for index, _ in found])

    def _add_shard(self, path: pathlib.Path, index: tar_index.Index) -> None:
        """Adds the usable rows of a tar, with their captions from a Parquet file."""
        table = index.table
        texts = self._read_parquet(path.with_suffix(".parquet"), index)
        # The counts spare reading a cached table, which otherwise stays on disk.
        if self._captions_required and index.without_caption:
            is_used = (table["text_at"] >= 0) | (table["json_at"] >= 0)
            is_used |= table["image_size"] == tar_index.BEYOND
            if texts is not None:
                is_used |= [bool(each) for each in texts]
            self.report.passed_over[record_members.NO_CAPTION] += int((~is_used).sum())
            table = table[is_used]
            if texts is not None:
                texts = list(itertools.compress(texts, is_used))
        self._tables.append(table)
        self._texts.append(texts)

    def _read_parquet(
        self, path: pathlib.Path, index: tar_index.Index
    ) -> list[tuple[str, ...]] | None:
        """The captions of the rows, () for none; None without a table that is needed.

        It is needed for an option that names its column, and for a picture without a
        caption file.
        """
        is_needed = self._options.column or index.without_text
        if self._options.text or not is_needed or not path.is_file():
            return None
        held = caption_tables.read(
            path, "key", self._options.column, self.report.passed_over
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
            self.report.notes.append(f"{members} behind an end mark read (joined tars)")
        self.report.note_dotted(sum(index.dotted for index in indices))
        if self.tables:
            files = wording.counted(len(self.tables), "Parquet file")
            self.report.notes.append(f"captions from {files} beside the tars")
        if not len(self):
            told = self.report.describe()
            raise UserError(
                f"webdataset:{self._where} holds {told}; pack a picture KEY.jpg and its"
                " caption KEY.txt for each KEY, as img2dataset does"
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __repr__(self) -> str:
        return f"webdataset:{self._where}"

    def _read(
        self, shard: int, row: np.void, field: str, limit: int, key: str
    ) -> bytes | None:
        """The bytes of a field of at most `limit` bytes; None where it has none."""
        offset, size = int(row[f"{field}_at"]), int(row[f"{field}_size"])
        if offset < 0:
            return None
        stamp = self._stamps[shard]
        if offset + size > stamp.size:
            detail = f"{field} runs past its {stamp.size} bytes"
            raise schema.BadRecordError("truncated tar", key, detail)
        if size > limit:
            kind = "huge image" if field == "image" else "huge caption"
            raise schema.BadRecordError(kind, key, f"{size} bytes")
        # A descriptor for each read: safe from any number of threads, and no limit on
        # the number of shards.
        return retrying_reads.read_span(self.paths[shard], offset, size, stamp, key)

    def _captions(
        self, shard: int, place: int, row: np.void, key: str
    ) -> tuple[str, ...]:
        """The captions: of the caption file, else of the table, else of the JSON."""
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
        texts = self._captions(shard, place, row, key)
        return caption_text.make_example(image, texts, key, self._options.captions)
