"""Indexes the records of a tar by its headers, and keeps the index in the user's cache.

Payloads are never read. The cached index belongs to the tar's path, size, and time of
change, and to the options that select the files of a sample.
"""

from __future__ import annotations

import collections
import hashlib
import json
import logging
import os
import pathlib
from typing import NamedTuple

import numpy as np

from glide_jax.data import (
    picture_files,
    picture_listing,
    record_members,
    retrying_reads,
    source_options,
    tar_headers,
)
from glide_jax.errors import UserError
from glide_jax.runtime import files

_log = logging.getLogger(__name__)
FIELDS = ("image", "text", "json")
_COLUMNS = tuple(f"{field}_{what}" for field in FIELDS for what in ("at", "size"))
# Part of the cache's file name: raise it when the index's meaning changes.
_INDEX_VERSION = 3
# A million pictures, each with its caption and JSON. A header takes 0.3 KB of memory.
MAX_MEMBERS = 3_000_000
MAX_KEY_BYTES = 256
# Past the end of any file.
BEYOND = 1 << 62
LINK = "link in a tar"
REPLACED = "member replaced by a later one of the same name"
NO_END_MARK = "end mark that is missing"
TRAILER = "data behind the end mark that is not a tar"


class Index(NamedTuple):
    """The records of one tar.

    Attributes:
      table: one row a record, in the order of the pictures in the tar: its key, and
        offset and size of each of FIELDS, or -1. Each damaged place is a row as well.
        The size of its picture and of one that was cut is BEYOND: a bad record.
      passed_over: the number of members that are in no row, by reason.
      joined: members behind an end mark, which are read.
      dotted: records whose key ends at the last dot.
      without_text: records without a caption file.
      without_caption: records without a caption file and without JSON.
    """

    table: np.ndarray
    passed_over: dict[str, int]
    joined: int
    dotted: int
    without_text: int
    without_caption: int


def load(
    path: pathlib.Path, cache_dir: pathlib.Path, options: source_options.Options
) -> tuple[Index, retrying_reads.Stamp]:
    """The index of one tar, from the cache if its stamp still agrees, and that stamp.

    Raises:
      UserError: the file is not a tar, cannot be read, or has a sample with two
        pictures of equal rank.
    """
    try:
        descriptor, stamp = retrying_reads.open_file(path)
        try:
            return _find(path, cache_dir, options, descriptor, stamp), stamp
        finally:
            os.close(descriptor)
    except OSError as fault:
        raise UserError(
            f"{path} cannot be read ({fault.strerror}); repair it, or leave it out of"
            " data.sources"
        ) from fault


def _find(
    path: pathlib.Path,
    cache_dir: pathlib.Path,
    options: source_options.Options,
    descriptor: int,
    stamp: retrying_reads.Stamp,
) -> Index:
    # A column is read from the JSON file, whichever it is.
    chosen = (options.image, options.text, bool(options.column))
    known = (*sorted(picture_files.SUFFIXES), *source_options.TEXT_SUFFIXES)
    identity = (str(path.resolve()), *stamp, _INDEX_VERSION, *chosen, *known)
    digest = hashlib.sha256(repr(identity).encode(errors="replace")).hexdigest()
    place = cache_dir / "tar_index" / f"{digest[:32]}.npy"
    cached = _read_cached(place)
    if cached is not None:
        return cached
    index = _Walk(path, stamp.size, options).read(descriptor)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may index the same shard.
        with files.scratch(place, is_shared=True) as draft, draft.open("wb") as file:
            np.save(file, index.table, allow_pickle=False)
            # Behind the array, which numpy reads by its size.
            file.write(json.dumps(index[1:]).encode())
    except OSError as fault:
        _log.warning("index of %s is not kept: %s", path, fault)
    return index


def _read_cached(place: pathlib.Path) -> Index | None:
    """A cached index, memory-mapped; None without a usable one."""
    try:
        table = np.load(place, mmap_mode="r", allow_pickle=False)
        if table.dtype.names != ("key", *_COLUMNS):
            return None
        with place.open("rb") as file:
            file.seek(table.offset + table.nbytes)
            return Index(table, *json.loads(file.read()))
    except (OSError, ValueError, EOFError, TypeError, AttributeError):
        return None


class _Walk:
    """One reading of a tar's headers."""

    def __init__(
        self, path: pathlib.Path, size: int, options: source_options.Options
    ) -> None:
        self._path, self._size, self._options = path, size, options
        self._places: dict[str, tuple[int, int]] = {}
        self._damage: list[int] = []
        self._passed_over: collections.Counter[str] = collections.Counter()
        self._joined = 0

    def read(self, descriptor: int) -> Index:
        is_joined = False
        for found in tar_headers.walk(descriptor, self._size):
            if isinstance(found, tar_headers.Damage):
                self._note_damage(found.offset)
            elif isinstance(found, tar_headers.Joined):
                is_joined = True
            elif isinstance(found, tar_headers.Trailer):
                self._passed_over[TRAILER] += 1
            else:
                self._joined += is_joined
                self._add(found)
        assembled = record_members.assemble(
            self._places, self._options, str(self._path)
        )
        self._passed_over.update(assembled.passed_over)
        table = self._table(assembled.records)
        is_whole = table["image_size"] < BEYOND
        has_text, has_json = table["text_at"] >= 0, table["json_at"] >= 0
        return Index(
            table,
            dict(self._passed_over),
            self._joined,
            assembled.dotted,
            int((is_whole & ~has_text).sum()),
            int((is_whole & ~has_text & ~has_json).sum()),
        )

    def _add(self, found: tar_headers.Member | tar_headers.Link) -> None:
        name = found.name.removeprefix("./")
        reasons = filter(None, map(picture_listing.reason_to_skip, name.split("/")))
        if isinstance(found, tar_headers.Link):
            reason = next(reasons, LINK)
        else:
            reason = next(reasons, None)
            if reason is None and record_members.kind_of(name) is None:
                reason = picture_listing.UNKNOWN_SUFFIX
        if reason is not None:
            self._passed_over[reason] += 1
            return
        self._passed_over[REPLACED] += name in self._places
        # A header may claim more than 64 bits hold.
        self._places[name] = (found.offset, min(found.size, BEYOND))
        if len(self._places) > MAX_MEMBERS:
            raise UserError(
                f"{self._path} holds more than {MAX_MEMBERS:,} files of records; pack"
                " it as several"
            )

    def _note_damage(self, offset: int) -> None:
        if offset == 0:
            raise UserError(
                f"{self._path} is not an uncompressed tar file; fetch or pack it again,"
                " or leave it out of data.sources"
            )
        if offset == self._size:
            _log.warning("%s has no end mark; it may have been cut", self._path)
            self._passed_over[NO_END_MARK] += 1
            return
        _log.warning("%s is damaged at byte %d", self._path, offset)
        self._damage.append(offset)

    def _table(self, records: list[record_members.Record]) -> np.ndarray:
        keys = [record.key for record in records]
        keys += [f"(damage at byte {offset})" for offset in self._damage]
        # A name may have 64 KiB, and one width holds for all.
        encoded = [key.encode(errors="replace")[:MAX_KEY_BYTES] for key in keys]
        width = max(map(len, encoded), default=1)
        columns = [(name, np.int64) for name in _COLUMNS]
        table = np.full(len(keys), -1, dtype=[("key", f"S{width}"), *columns])
        table["key"] = encoded
        fields = ((record.picture, record.text, record.json) for record in records)
        for field, names in zip(FIELDS, zip(*fields, strict=True), strict=False):
            places = [(-1, -1) if n is None else self._places[n] for n in names]
            offsets, sizes = zip(*places, strict=True)
            table[f"{field}_at"][: len(records)] = offsets
            table[f"{field}_size"][: len(records)] = sizes
        table["image_at"][len(records) :] = self._damage
        table["image_size"][len(records) :] = BEYOND
        is_cut = table["image_at"] + table["image_size"] > self._size
        table["image_size"][is_cut] = BEYOND
        return table[np.argsort(table["image_at"], kind="stable")]
