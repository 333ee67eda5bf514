"""Webdataset tar shards read at random through an index of their members.

The layout is img2dataset's: KEY.jpg|jpeg|png|webp with KEY.txt (the caption) and
KEY.json (whose "caption" stands in for a missing KEY.txt). An index is built once per
tar by walking its headers, never reading payloads, and kept in the user's cache under
the tar's path, size and time of change. Records are then read by offset, so any order
is possible without unpacking or shuffle buffers.

Of a tar that was cut or damaged the whole records are read; what is lost counts as one
bad record at each damaged place.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import logging
import os
import pathlib
import re
from concurrent import futures

import numpy as np

from glide_jax import cache, errors
from glide_jax.data import captions, disk, schema, tar_headers

_log = logging.getLogger(__name__)
_FIELD_OF_SUFFIX = {
    "jpg": "image",
    "jpeg": "image",
    "png": "image",
    "webp": "image",
    "txt": "text",
    "json": "json",
}
_COLUMNS = tuple(
    f"{field}_{what}" for field in ("image", "text", "json") for what in ("at", "size")
)
# Part of the cache's file name: raise it when the index's meaning changes.
_INDEX_VERSION = 2
# A tar of a million records takes 50 MB of index; img2dataset packs ten thousand.
MAX_RECORDS = 1_000_000
MAX_KEY_BYTES = 256
# Past the end of any file.
_BEYOND = 1 << 62
# Headers are read a few bytes at a time: on network disks waiting dominates.
_WALKERS = 8
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def expand(pattern: str) -> list[pathlib.Path]:
    """The files that comma-separated globs with {000..012} ranges name, sorted.

    Raises:
      UserError: a glob or a number of a range matches no file.
    """
    paths: set[str] = set()
    for part in filter(None, (p.strip() for p in pattern.split(","))):
        for one in _expand_ranges(os.path.expanduser(part)):
            found = glob.glob(one, recursive=True)
            if not found:
                raise errors.UserError(
                    f"webdataset:{pattern} names no file at {one};"
                    " give existing tar files, globs or ranges such as {000..012}"
                )
            paths.update(found)
    if not paths:
        raise errors.UserError(
            "webdataset: names no file; write webdataset:FOLDER/*.tar"
        )
    return [pathlib.Path(path) for path in sorted(paths)]


def _expand_ranges(pattern: str) -> list[str]:
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [
        f"{head}{number:0{len(first)}d}{rest}"
        for number in range(int(first), int(last) + 1)
        for rest in _expand_ranges(tail)
    ]


def _walk(path: pathlib.Path, descriptor: int, end: int) -> np.ndarray:
    """One row per KEY of a tar: the key, and offset and size of each field, or -1.

    Each damaged place is a row as well, whose picture lies past the end of the file: it
    is drawn, counted and named like any other record that cannot be used.
    """
    rows: dict[str, dict[str, tuple[int, int]]] = {}
    for found in tar_headers.walk(descriptor, end):
        if isinstance(found, tar_headers.Damage):
            _note_damage(path, found.offset, end, rows)
        else:
            stem, _, suffix = found.name.removeprefix("./").rpartition(".")
            field = _FIELD_OF_SUFFIX.get(suffix.lower())
            if field:
                # A header may claim more than 64 bits hold.
                place = (found.offset, min(found.size, _BEYOND))
                rows.setdefault(stem, {})[field] = place
        if len(rows) > MAX_RECORDS:
            raise errors.UserError(
                f"{path} holds more than {MAX_RECORDS:,} records; pack it as several"
            )
    # A name may have 64 KiB, and one width holds for all.
    keys = [key.encode(errors="replace")[:MAX_KEY_BYTES] for key in rows]
    width = max(map(len, keys), default=1)
    columns = [(name, np.int64) for name in _COLUMNS]
    table = np.full(len(rows), -1, dtype=[("key", f"S{width}"), *columns])
    table["key"] = keys
    for i, fields in enumerate(rows.values()):
        for name, (offset, size) in fields.items():
            table[f"{name}_at"][i], table[f"{name}_size"][i] = offset, size
    return table[(table["image_at"] >= 0) | (table["text_at"] >= 0)]


def _note_damage(
    path: pathlib.Path, offset: int, end: int, rows: dict[str, dict]
) -> None:
    if offset == 0:
        raise errors.UserError(
            f"{path} is not an uncompressed tar file; fetch or pack it again, or leave"
            " it out of data.sources"
        )
    if offset == end:
        _log.warning("%s has no end mark; it may have been cut", path)
        return
    _log.warning("%s is damaged at byte %d; what lies there is left out", path, offset)
    rows[f"(damage at byte {offset})"] = {"image": (offset, _BEYOND)}


def _read_cached(place: pathlib.Path) -> np.ndarray | None:
    """A cached index, memory-mapped; None without a usable one."""
    try:
        table = np.load(place, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return table if table.dtype.names == ("key", *_COLUMNS) else None


def load_index(
    path: pathlib.Path, cache_dir: pathlib.Path
) -> tuple[np.ndarray, disk.Stamp]:
    """The index of one tar, from the cache if its stamp still agrees, and that stamp.

    Raises:
      UserError: the file is not a tar, or cannot be read.
    """
    try:
        descriptor, stamp = disk.open_file(path)
        try:
            return _find_index(path, cache_dir, descriptor, stamp), stamp
        finally:
            os.close(descriptor)
    except OSError as fault:
        raise errors.UserError(
            f"{path} cannot be read ({fault.strerror}); mend it, or leave it out of"
            " data.sources"
        ) from fault


def _find_index(
    path: pathlib.Path, cache_dir: pathlib.Path, descriptor: int, stamp: disk.Stamp
) -> np.ndarray:
    identity = (str(path.resolve()), *stamp, _INDEX_VERSION)
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()
    place = cache_dir / "tar_index" / f"{digest[:32]}.npy"
    cached = _read_cached(place)
    if cached is not None:
        return cached
    table = _walk(path, descriptor, stamp.size)
    draft = place.with_name(f".{place.name}.{os.getpid()}.{id(table)}.npy")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(draft, table, allow_pickle=False)
        # Several processes may index the same shard; a rename is all or nothing.
        draft.replace(place)
    except OSError as fault:
        _log.warning("index of %s is not kept: %s", path, fault)
    return table


class TarShards:
    """A source over all KEYs of some tar shards, in the order of the shards.

    Attributes:
      paths: the tars.
    """

    def __init__(
        self,
        pattern: str,
        cache_dir: pathlib.Path | None = None,
        *,
        captions_required: bool = True,
    ) -> None:
        self._pattern, self._captions_required = pattern, captions_required
        self.paths = expand(pattern)
        folder = cache_dir or cache.folder()
        with futures.ThreadPoolExecutor(_WALKERS) as pool:
            read = functools.partial(load_index, cache_dir=folder)
            found = list(pool.map(read, self.paths))
        self._tables = [table for table, _ in found]
        self._stamps = [stamp for _, stamp in found]
        self._ends = np.cumsum([len(table) for table in self._tables])
        if not len(self):
            raise errors.UserError(
                f"webdataset:{pattern} holds no KEY.jpg, KEY.png or KEY.webp with a"
                " KEY.txt in any of its tars; pack them as img2dataset does"
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __repr__(self) -> str:
        return f"webdataset:{self._pattern}"

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
        return disk.read_span(self.paths[shard], offset, size, stamp, key)

    def _caption(self, shard: int, row: np.void, key: str) -> str:
        text = self._read(shard, row, "text", disk.MAX_CAPTION_BYTES, key)
        if text is not None:
            return captions.from_text(text, key)
        record = self._read(shard, row, "json", disk.MAX_JSON_BYTES, key)
        if record is None and not self._captions_required:
            return ""
        if record is None:
            raise schema.BadRecordError("missing caption", key)
        return captions.from_json(record, key)

    def __getitem__(self, index: int) -> schema.Example:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self!r}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        table = self._tables[shard]
        row = table[index - int(self._ends[shard]) + len(table)]
        key = f"{self.paths[shard].name}:{row['key'].decode(errors='replace')}"
        image = self._read(shard, row, "image", disk.MAX_IMAGE_BYTES, key)
        if image is None:
            raise schema.BadRecordError("missing image", key)
        return schema.Example(image, self._caption(shard, row, key), key)
