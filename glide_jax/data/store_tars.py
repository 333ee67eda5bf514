"""Finds and reads tars in object stores, gs:// and s3://.

The index of a tar is made from windows of its bytes: each starts at the next header
that is not read yet. Members smaller than a window are thus read in sequence, and large
ones are passed over. It is cached by URL and version. A record is one request, for its
picture, its caption, and what lies between them.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import pathlib
import posixpath
import re
import tempfile
from collections.abc import Iterator, Mapping

from glide_jax.data import (
    picture_listing,
    schema,
    source_options,
    store_ranges,
    tar_files,
    tar_index,
    tar_paths,
)
from glide_jax.errors import UserError
from glide_jax.runtime import object_store, wording

_log = logging.getLogger(__name__)
# Bytes that the index of a tar is made from at once (measured, see docs/inputs.md).
WINDOW_BYTES = 8 << 20
# More tars than this in one folder are found by one listing of the folder.
_MOST_SINGLE = 8
_MAGIC = re.compile(r"[*?[]")
_GLOB = re.compile(r"(\*\*/|\*|\?|\[[^]]+\])")
Entries = Mapping[str, object_store.Entry]


class StoreTar:
    """A tar in an object store, of the version that was listed; see `tar_files.Tar`.

    Attributes:
      url: of the object.
    """

    def __init__(self, bucket: str, path: str, entry: object_store.Entry) -> None:
        self._bucket, self._path, self._entry = bucket, path, entry
        self.url = f"{bucket}/{path}"
        self._table = ""
        self._is_reported = False

    @property
    def name(self) -> str:
        """The base name."""
        return posixpath.basename(self._path)

    @property
    def size(self) -> int:
        """Bytes of the listed version."""
        return self._entry.size

    def stamps(self) -> list[str]:
        """A line with name, size and version for every object that was read."""
        line = f"{self.name} {self.size} {self._entry.version}"
        return [line, self._table] if self._table else [line]

    def load_index(
        self, cache_dir: pathlib.Path, options: source_options.Options
    ) -> tar_index.Index:
        """Returns the index of the tar, see `tar_index.find`.

        Raises:
          UserError: the object changed since it was listed, or is not a tar.
        """
        identity = (self.url, self.size, self._entry.version)
        try:
            return tar_index.find(
                self.url, identity, self.size, _Windows(self), cache_dir, options
            )
        except (object_store.MissingError, store_ranges.ChangedError) as error:
            raise _while_it_was_read(self.url, error) from error

    def range(self, start: int, stop: int) -> store_ranges.Range:
        """The bytes [start, stop) of the listed version."""
        version = self._entry.version
        return store_ranges.Range(self._bucket, self._path, version, start, stop)

    def reader(self, span: tar_files.Span, key: str) -> tar_files.Read:
        """Returns the reader of a record, which requests `span` at most once."""
        start, stop = span
        held: bytes | None = None

        def read(offset: int, size: int) -> bytes:
            nonlocal held
            if not start <= offset <= offset + size <= stop:
                return self._read(offset, offset + size, key)
            if held is None:
                held = self._read(start, stop, key)
            return held[offset - start : offset - start + size]

        return read

    def _read(self, start: int, stop: int, key: str) -> bytes:
        try:
            return store_ranges.read(self.range(start, stop))
        except (object_store.MissingError, store_ranges.ChangedError) as error:
            fate = _fate(error)
            if not self._is_reported:
                self._is_reported = True
                _log.error(
                    "%s was %s since it was indexed: its records are replaced, which a "
                    "run resumed with the object restored does not repeat",
                    self.url,
                    fate,
                )
            kind = "changed shard" if fate == "replaced" else "vanished shard"
            raise schema.BadRecordError(kind, key, self.url) from error

    @contextlib.contextmanager
    def table(self) -> Iterator[pathlib.Path | None]:
        """A copy of the Parquet file beside the tar, in a temporary folder."""
        path = f"{self._path[: -len('.tar')]}.parquet"
        entry = store_ranges.list_objects(self._bucket, path).get(path)
        if entry is None:
            yield None
            return
        self._table = f"{posixpath.basename(path)} {entry.size} {entry.version}"
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / posixpath.basename(path)
            try:
                content = store_ranges.read_object(self._bucket, path)
            except object_store.MissingError as error:
                raise _while_it_was_read(f"{self._bucket}/{path}", error) from error
            with copy.open("wb") as file:
                file.write(content)
            yield copy


def _fate(error: Exception) -> str:
    return "replaced" if isinstance(error, store_ranges.ChangedError) else "deleted"


def _while_it_was_read(url: str, error: Exception) -> UserError:
    return UserError(
        f"{url} was {_fate(error)} while it was read; start again when nothing writes "
        "to it"
    )


class _Windows:
    """Reads a tar from its start to its end, one window at a time."""

    def __init__(self, tar: StoreTar) -> None:
        self._tar, self._start, self._content = tar, 0, b""

    def __call__(self, offset: int, size: int) -> bytes:
        """Returns `size` bytes from `offset`, fewer only at the end of the tar."""
        stop = min(offset + size, self._tar.size)
        if offset >= stop:
            return b""
        if not self._start <= offset <= stop <= self._start + len(self._content):
            end = min(max(stop, offset + WINDOW_BYTES), self._tar.size)
            self._content = store_ranges.read(self._tar.range(offset, end))
            self._start = offset
        return self._content[offset - self._start : stop - self._start]


def expand(where: str) -> tuple[list[StoreTar], collections.Counter[str]]:
    """Returns the tars of comma-separated URLs, in natural order, and skipped objects.

    The URLs are those of `tar_paths.expand`: of a tar, a glob, or a folder.

    Raises:
      UserError: a part is not a URL, or it, or one of its expansions, matches no tar.
    """
    parts = tar_paths.split_parts(where)
    found: dict[tuple[str, str], object_store.Entry] = {}
    skipped: collections.Counter[str] = collections.Counter()
    folders = collections.Counter(map(posixpath.dirname, parts))
    listings: dict[str, Entries] = {}
    for one in parts:
        if not object_store.is_url(one):
            raise UserError(
                f"webdataset:{where} joins URLs and the path {one}; give them as two "
                "data sources"
            )
        scheme, _, rest = one.rstrip("/").partition("://")
        name, _, path = rest.partition("/")
        bucket = f"{scheme}://{name}"
        under = _literal_folder(path)
        if under == path and folders[posixpath.dirname(one)] > _MOST_SINGLE:
            under = posixpath.dirname(path)
        place = f"{bucket}/{under}"
        if place not in listings:
            listings[place] = store_ranges.list_objects(bucket, under)
        names = _choose(path, listings[place], skipped)
        if not names:
            raise UserError(
                f"webdataset:{where} matches no tar at {one}; give existing tars, globs"
                ", ranges such as {000..012}, or a folder of tars"
            )
        found.update({(bucket, each): listings[place][each] for each in names})
    places = sorted(found, key=lambda place: wording.natural_key("/".join(place)))
    return [StoreTar(*place, found[place]) for place in places], skipped


def _literal_folder(path: str) -> str:
    """The path up to the first folder or name with a magic character."""
    match = _MAGIC.search(path)
    return path if match is None else posixpath.dirname(path[: match.start()])


def _choose(
    path: str, entries: Entries, skipped: collections.Counter[str]
) -> list[str]:
    """The names of the tars of a path: itself, a match, or in the folder."""
    if path in entries:
        return [path]
    if _MAGIC.search(path):
        pattern = re.compile(_to_regex(path))
        return [name for name in entries if pattern.fullmatch(name)]
    prefix = f"{path}/" if path else ""
    names = []
    for name in entries:
        if not name.startswith(prefix):
            continue
        parts = name[len(prefix) :].split("/")
        reason = next(filter(None, map(picture_listing.reason_to_skip, parts)), None)
        if reason is None and not tar_paths.is_tar(name):
            reason = tar_paths.NOT_A_TAR
        if reason is None:
            names.append(name)
        else:
            skipped[reason] += 1
    return names


def _to_regex(pattern: str) -> str:
    """The regular expression of a glob, in which "**/" is any number of folders."""
    kinds = {"**/": "(?:[^/.][^/]*/)*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        kinds.get(part) or (_set_of(part) if part[:1] == "[" else re.escape(part))
        for part in _GLOB.split(pattern)
    )


def _set_of(part: str) -> str:
    content = part[1:-1].replace("\\", r"\\")
    return f"[^{content[1:]}]" if content[0] == "!" else f"[{content}]"
