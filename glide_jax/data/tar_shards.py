"""Reads webdataset tars at random, by an index of their members.

The layout is img2dataset's: a picture KEY.jpg with KEY.txt (the caption) and KEY.json
(with "caption", used without a caption file), see `record_members`. NAME.parquet beside
NAME.tar may contain captions by "key". Each tar is indexed once, see `tar_index`.
Records are then read by offset, so any order is possible without unpacking or shuffle
buffers.

Tars in object stores, gs:// and s3://, are read by ranges; see `store_tars`.

The complete records of a truncated or damaged tar are read; each damaged offset counts
as one bad record.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import NamedTuple

import numpy as np

from glide_jax.data import (
    caption_tables,
    caption_text,
    record_members,
    retrying_reads,
    schema,
    source_options,
    source_report,
    store_ranges,
    store_tars,
    tar_files,
    tar_index,
    tar_paths,
)
from glide_jax.errors import UserError
from glide_jax.runtime import object_store, user_cache, wording

# Threads that index tars; on network disks the latency of small reads dominates.
_WALKERS = 8
# The largest fields that are read into memory.
_LIMITS = {
    "image": retrying_reads.MAX_IMAGE_BYTES,
    "text": retrying_reads.MAX_CAPTION_BYTES,
    "json": retrying_reads.MAX_JSON_BYTES,
}
# A caption that lies this near its picture is read with it.
_NEAR_BYTES = 64 << 10
# Reads a field of one record; None if it lacks it.
_ReadField = Callable[[str], bytes | None]


class TarShards:
    """A source over the records of tars, in natural order of the tars.

    Attributes:
      tars: the tars, which `tar_files` and `store_tars` read.
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
        self.tars, skipped = _find(where)
        folder = cache_dir or user_cache.folder()
        with futures.ThreadPoolExecutor(_WALKERS) as pool:
            found = list(
                pool.map(lambda tar: tar.load_index(folder, self._options), self.tars)
            )
        self.report = source_report.SourceReport(skipped=skipped)
        self._with_table: list[tar_files.Tar] = []
        self._tables, self._texts = [], []
        for tar, index in zip(self.tars, found, strict=True):
            self.report.skipped.update(index.skipped)
            self._add_shard(tar, index)
        self._ends = np.cumsum([len(table) for table in self._tables])
        self._complete_report(found)

    def _add_shard(self, tar: tar_files.Tar, index: tar_index.Index) -> None:
        """Adds the usable rows of a tar, with their captions from a Parquet file."""
        table = index.table
        texts = self._read_parquet(tar, index)
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
        self, tar: tar_files.Tar, index: tar_index.Index
    ) -> list[tuple[str, ...]] | None:
        """Reads the captions of the rows, () for none; None if no table is needed.

        It is needed for an option with its column, and for pictures without a caption
        file.
        """
        is_needed = self._options.column or index.without_text
        if self._options.text or not is_needed:
            return None
        with tar.table() as path:
            held = path and caption_tables.read(
                path, "key", self._options.column, self.report.skipped
            )
        if held is None:
            return None
        self._with_table.append(tar)
        keys = (key.decode(errors="replace") for key in index.table["key"].tolist())
        return [held.get(key) or held.get(key.rpartition("/")[2], ()) for key in keys]

    def files(self) -> list[pathlib.Path]:
        """Every file on a disk that the records are read from."""
        tables = [
            tar.parquet
            for tar in self._with_table
            if isinstance(tar, tar_files.LocalTar)
        ]
        tars = [tar.path for tar in self.tars if isinstance(tar, tar_files.LocalTar)]
        return [*tars, *tables]

    def objects(self) -> list[str]:
        """A line for every object that the records are read from."""
        stored = (tar for tar in self.tars if isinstance(tar, store_tars.StoreTar))
        return [line for tar in stored for line in tar.stamps()]

    @contextlib.contextmanager
    def ahead(self, indices: Iterable[int]) -> Iterator[None]:
        """Requests the records in object stores; see `schema.ReadAhead`."""
        if isinstance(self.tars[0], tar_files.LocalTar):
            yield
            return
        ranges = []
        for record in map(self._record, indices):
            assert isinstance(record.tar, store_tars.StoreTar)
            ranges.append(record.tar.range(*record.span()))
        with store_ranges.ahead(ranges):
            yield

    def _complete_report(self, indices: list[tar_index.Index]) -> None:
        used = source_report.used(len(self), self._captions_required)
        self.report.used = f"{used} in {wording.counted(len(self.tars), 'tar')}"
        joined = sum(index.joined for index in indices)
        if joined:
            members = wording.counted(joined, "member")
            self.report.notes.append(f"{members} after an end mark read (joined tars)")
        self.report.note_dotted(sum(index.dotted for index in indices))
        if self._with_table:
            files = wording.counted(len(self._with_table), "Parquet file")
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

    def _record(self, index: int) -> _Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self!r}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        table, texts = self._tables[shard], self._texts[shard]
        place = index - int(self._ends[shard]) + len(table)
        return _Record(
            self.tars[shard], table[place], () if texts is None else texts[place]
        )

    def _captions(self, record: _Record, read: _ReadField) -> tuple[str, ...]:
        """Reads the captions: caption file, else table, else JSON file."""
        text = read("text")
        if text is not None:
            return (caption_text.from_text(text, record.key),)
        if record.texts:
            return record.texts
        content = read("json")
        if content is not None:
            return caption_text.from_json(
                content,
                record.key,
                self._options.column,
                required=self._captions_required,
            )
        return ("",)

    def __getitem__(self, index: int) -> schema.Example:
        record = self._record(index)
        read = record.reader()
        image = read("image")
        assert image is not None  # every row has a picture
        texts = self._captions(record, read)
        return caption_text.make_example(
            image, texts, record.key, self._options.captions
        )


class _Record(NamedTuple):
    """The places of one record.

    Attributes:
      tar: the tar.
      row: of the index of the tar.
      texts: its captions in a table.
    """

    tar: tar_files.Tar
    row: np.void
    texts: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.tar.name}:{self.row['key'].decode(errors='replace')}"

    def place(self, field: str) -> tuple[int, int]:
        """Offset and size of a field; the offset is -1 if the record lacks it."""
        return int(self.row[f"{field}_at"]), int(self.row[f"{field}_size"])

    def span(self) -> tar_files.Span:
        """The bytes that are read: the picture, and captions that lie near it."""
        start, size = self.place("image")
        stop = start + size
        if stop > self.tar.size or size > _LIMITS["image"]:
            return start, start
        has_text = self.place("text")[0] >= 0
        for field in ("text",) if has_text else () if self.texts else ("json",):
            offset, size = self.place(field)
            is_read = 0 <= offset <= self.tar.size - size and size <= _LIMITS[field]
            is_near = max(offset - stop, start - offset - size) <= _NEAR_BYTES
            if is_read and is_near:
                start, stop = min(start, offset), max(stop, offset + size)
        return start, stop

    def reader(self) -> _ReadField:
        """Returns the function that reads a field; None if the record lacks it."""
        read = self.tar.reader(self.span(), self.key)

        def read_field(field: str) -> bytes | None:
            offset, size = self.place(field)
            if offset < 0:
                return None
            if offset + size > self.tar.size:
                detail = f"{field} exceeds its {self.tar.size} bytes"
                raise schema.BadRecordError("truncated tar", self.key, detail)
            if size > _LIMITS[field]:
                kind = "huge image" if field == "image" else "huge caption"
                raise schema.BadRecordError(kind, self.key, f"{size} bytes")
            return read(offset, size)

        return read_field


def _find(where: str) -> tuple[Sequence[tar_files.Tar], collections.Counter[str]]:
    """Returns the tars of a place of paths or of URLs, and the skipped files."""
    if object_store.is_url(where.strip()):
        return store_tars.expand(where)
    paths, skipped = tar_paths.expand(where)
    return [tar_files.LocalTar(path) for path in paths], skipped
