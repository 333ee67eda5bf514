"""Indexes the records of a tar by its headers, and caches the index.

Contents are not used. The key of a cached index is the path, the size and the
modification time of the tar, or its URL and version, and the options that select the
files of a sample.
"""

from __future__ import annotations

import collections
import functools
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
# Part of the cache key; increased when the format of the index changes.
_INDEX_VERSION = 3
# A million pictures with caption and JSON; a member takes 0.3 KB of memory.
MAX_MEMBERS = 3_000_000
MAX_KEY_BYTES = 256
# A size beyond the end of any file.
BEYOND = 1 << 62
LINK = "link in a tar"
REPLACED = "member replaced by a later one of the same name"
NO_END_MARK = "end mark that is missing"
TRAILER = "data after the end mark that is not a tar"


class Index(NamedTuple):
    """The records of one tar.

    Attributes:
      table: one row per record, in the order of the pictures in the tar: key, and
        offset and size of each of FIELDS, or -1. Each damaged offset is a row as well.
        Damaged and truncated pictures have the size BEYOND, which is a bad record.
      skipped: the number of unused members by reason.
      joined: the number of members after an end mark.
      dotted: the number of records with a key up to the last dot.
      without_text: the number of records without a caption file.
      without_caption: the number of records without a caption file and JSON.
    """

    table: np.ndarray
    skipped: dict[str, int]
    joined: int
    dotted: int
    without_text: int
    without_caption: int


def load(
    path: pathlib.Path, cache_dir: pathlib.Path, options: source_options.Options
) -> tuple[Index, retrying_reads.Stamp]:
    """Returns the index of a tar, from the cache if its stamp agrees, and the stamp.

    Raises:
      UserError: the file is not a tar, cannot be read, or has a sample with two
        pictures of equal rank.
    """
    try:
        descriptor, stamp = retrying_reads.open_file(path)
        try:
            read = functools.partial(retrying_reads.read_at, descriptor)
            identity = (str(path.resolve()), *stamp)
            found = find(str(path), identity, stamp.size, read, cache_dir, options)
            return found, stamp
        finally:
            os.close(descriptor)
    except OSError as fault:
        raise UserError(
            f"{path} cannot be read ({fault.strerror}); repair it, or omit it from"
            " data.sources"
        ) from fault


def find(
    label: str,
    version: tuple[str | int, ...],
    size: int,
    read: tar_headers.Read,
    cache_dir: pathlib.Path,
    options: source_options.Options,
) -> Index:
    """Returns the index of a tar, from the cache or from its headers.

    Args:
      label: names the tar in messages.
      version: identifies the content of the tar.
      size: bytes of the tar.
      read: reads it.
      cache_dir: the folder of cached indices.
      options: which files of a sample are used.

    Raises:
      UserError: see `load`.
    """
    # The index does not depend on the name of a column.
    chosen = (options.image, options.text, bool(options.column))
    known = (*sorted(picture_files.SUFFIXES), *source_options.TEXT_SUFFIXES)
    identity = (*version, _INDEX_VERSION, *chosen, *known)
    digest = hashlib.sha256(repr(identity).encode(errors="replace")).hexdigest()
    place = cache_dir / "tar_index" / f"{digest[:32]}.npy"
    cached = _read_cached(place)
    if cached is not None:
        return cached
    index = _Walk(label, size, options).read(read)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may index the same shard.
        with files.scratch(place, is_shared=True) as draft, draft.open("wb") as file:
            np.save(file, index.table, allow_pickle=False)
            # After the array; numpy ignores what follows it.
            file.write(json.dumps(index[1:]).encode())
    except OSError as fault:
        _log.warning("index of %s cannot be cached: %s", label, fault)
    return index


def _read_cached(place: pathlib.Path) -> Index | None:
    """Reads a cached index, memory-mapped; None if there is no valid one."""
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
    """The state of one walk over the headers of a tar."""

    def __init__(self, label: str, size: int, options: source_options.Options) -> None:
        self._label, self._size, self._options = label, size, options
        self._places: dict[str, tuple[int, int]] = {}
        self._damage: list[int] = []
        self._skipped: collections.Counter[str] = collections.Counter()
        self._joined = 0

    def read(self, read: tar_headers.Read) -> Index:
        is_joined = False
        for found in tar_headers.walk(read, self._size):
            if isinstance(found, tar_headers.Damage):
                self._note_damage(found.offset)
            elif isinstance(found, tar_headers.Joined):
                is_joined = True
            elif isinstance(found, tar_headers.Trailer):
                self._skipped[TRAILER] += 1
            else:
                self._joined += is_joined
                self._add(found)
        assembled = record_members.assemble(self._places, self._options, self._label)
        self._skipped.update(assembled.skipped)
        table = self._table(assembled.records)
        is_whole = table["image_size"] < BEYOND
        has_text, has_json = table["text_at"] >= 0, table["json_at"] >= 0
        return Index(
            table,
            dict(self._skipped),
            self._joined,
            assembled.dotted,
            int((is_whole & ~has_text).sum()),
            int((is_whole & ~has_text & ~has_json).sum()),
        )

    def _add(self, found: tar_headers.Member | tar_headers.Link) -> None:
        name = found.name.removeprefix("./")
        reasons = filter(None, map(picture_listing.reason_to_skip, name.split("/")))
        if isinstance(found, tar_headers.Link):
            self._skipped[next(reasons, LINK)] += 1
            return
        reason = next(reasons, None)
        if reason is None and record_members.kind_of(name) is None:
            reason = picture_listing.unknown_suffix(name)
        if reason is not None:
            self._skipped[reason] += 1
            return
        self._skipped[REPLACED] += name in self._places
        # A header may claim a size beyond 64 bits.
        self._places[name] = (found.offset, min(found.size, BEYOND))
        if len(self._places) > MAX_MEMBERS:
            raise UserError(
                f"{self._label} contains more than {MAX_MEMBERS:,} files of records;"
                " split it into several tars"
            )

    def _note_damage(self, offset: int) -> None:
        if offset == 0:
            raise UserError(
                f"{self._label} is not an uncompressed tar file; download or pack it"
                " again, or omit it from data.sources"
            )
        if offset == self._size:
            _log.warning("%s has no end mark; it may be truncated", self._label)
            self._skipped[NO_END_MARK] += 1
            return
        _log.warning("%s is damaged at byte %d", self._label, offset)
        self._damage.append(offset)

    def _table(self, records: list[record_members.Record]) -> np.ndarray:
        keys = [record.key for record in records]
        keys += [f"(damage at byte {offset})" for offset in self._damage]
        # All keys of the table take the width of the longest.
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
        is_truncated = table["image_at"] + table["image_size"] > self._size
        table["image_size"][is_truncated] = BEYOND
        return table[np.argsort(table["image_at"], kind="stable")]
