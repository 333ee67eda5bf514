"""Webdataset tar shards read at random through an index of their members.

The layout is img2dataset's: KEY.jpg|jpeg|png|webp with KEY.txt (the caption) and
KEY.json (whose "caption" stands in for a missing KEY.txt). An index is built once per
tar by walking its headers, never reading payloads, and kept in the user's cache under
the tar's path, size and time of change. Records are then read by offset, so any order
is possible without unpacking or shuffle buffers.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import logging
import os
import pathlib
import re
import tarfile
from concurrent import futures

import numpy as np

from glide_jax import cache, errors
from glide_jax.data import schema

_log = logging.getLogger(__name__)
_FIELD_OF_SUFFIX = {
    "jpg": "image",
    "jpeg": "image",
    "png": "image",
    "webp": "image",
    "txt": "text",
    "json": "json",
}
_FIELDS = ("image", "text", "json")
# Part of the cache's file name: raise it when the index's meaning changes.
_INDEX_VERSION = 1
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


def _check_end(path: pathlib.Path, end: int) -> None:
    """Raises tarfile.ReadError unless the last member, which ends at `end`, is whole.

    tarfile itself takes a cut or damaged header for the end of the archive, which
    would lose the rest of a shard in silence.
    """
    if end > path.stat().st_size:
        raise tarfile.ReadError("the last member runs past the end of the file")
    with path.open("rb") as stream:
        stream.seek(-(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
        mark = stream.read(tarfile.BLOCKSIZE)
    if not mark:
        _log.warning("%s has no end mark; it may have been cut", path)
    if any(mark):
        raise tarfile.ReadError("a header is cut or damaged")


def _walk(path: pathlib.Path) -> np.ndarray:
    """One row per KEY of a tar: the key, and offset and size of each field, or -1."""
    rows: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            end = 0
            for member in tar:
                stem, _, suffix = member.name.removeprefix("./").rpartition(".")
                end = max(end, member.offset_data + member.size)
                field = _FIELD_OF_SUFFIX.get(suffix.lower())
                if member.isfile() and field:
                    place = (member.offset_data, member.size)
                    rows.setdefault(stem, {})[field] = place
        _check_end(path, end)
    except (tarfile.TarError, OSError) as fault:
        raise errors.UserError(
            f"{path} is not a whole, uncompressed tar file ({fault}); fetch or pack it"
            " again, or leave it out of data.sources"
        ) from fault
    keys = [key.encode() for key in rows]
    width = max(map(len, keys), default=1)
    columns = [(f"{f}_{what}", np.int64) for f in _FIELDS for what in ("at", "size")]
    table = np.full(len(rows), -1, dtype=[("key", f"S{width}"), *columns])
    table["key"] = keys
    for i, fields in enumerate(rows.values()):
        for name, (offset, size) in fields.items():
            table[f"{name}_at"][i], table[f"{name}_size"][i] = offset, size
    return table[(table["image_at"] >= 0) | (table["text_at"] >= 0)]


def _read_cached(place: pathlib.Path) -> np.ndarray | None:
    """A cached index, memory-mapped; None without a usable one."""
    try:
        return np.load(place, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def load_index(path: pathlib.Path, cache_dir: pathlib.Path) -> np.ndarray:
    """The index of one tar, from the cache if its size and time still agree.

    Raises:
      UserError: the file is not a whole tar.
    """
    stat = path.stat()
    identity = (str(path.resolve()), stat.st_size, stat.st_mtime_ns, _INDEX_VERSION)
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()
    place = cache_dir / "tar_index" / f"{digest[:32]}.npy"
    cached = _read_cached(place)
    if cached is not None:
        return cached
    table = _walk(path)
    draft = place.with_name(f".{place.name}.{os.getpid()}.{id(table)}.npy")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(draft, table)
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

    def __init__(self, pattern: str, cache_dir: pathlib.Path | None = None) -> None:
        self._pattern = pattern
        self.paths = expand(pattern)
        folder = cache_dir or cache.folder()
        with futures.ThreadPoolExecutor(_WALKERS) as pool:
            read = functools.partial(load_index, cache_dir=folder)
            self._tables = list(pool.map(read, self.paths))
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

    def _read(self, shard: int, row: np.void, field: str) -> bytes | None:
        offset, size = int(row[f"{field}_at"]), int(row[f"{field}_size"])
        if offset < 0:
            return None
        # pread on a descriptor of its own: safe from any number of threads, and no
        # limit on the number of shards.
        descriptor = os.open(self.paths[shard], os.O_RDONLY)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def _caption(self, shard: int, row: np.void, key: str) -> str:
        if (text := self._read(shard, row, "text")) is not None:
            try:
                return text.decode().strip()
            except UnicodeDecodeError as fault:
                raise schema.BadRecordError(
                    "broken caption", key, "not UTF-8"
                ) from fault
        record = self._read(shard, row, "json")
        try:
            caption = json.loads(record)["caption"] if record is not None else None
        except (ValueError, KeyError, TypeError):
            caption = None
        if not isinstance(caption, str):
            raise schema.BadRecordError("missing caption", key)
        return caption.strip()

    def __getitem__(self, index: int) -> schema.Example:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self!r}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        table = self._tables[shard]
        row = table[index - int(self._ends[shard]) + len(table)]
        key = f"{self.paths[shard].name}:{row['key'].decode(errors='replace')}"
        image = self._read(shard, row, "image")
        if image is None:
            raise schema.BadRecordError("missing image", key)
        return schema.Example(image, self._caption(shard, row, key), key)
