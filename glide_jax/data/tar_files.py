"""The tars of a source: what one offers, and one on a mounted disk."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from glide_jax.data import retrying_reads, source_options, tar_index

# Bytes [start, stop) of a tar.
Span = tuple[int, int]
# (offset, size) -> bytes; raises BadRecordError for a tar that vanished or changed.
Read = Callable[[int, int], bytes]


@runtime_checkable
class Tar(Protocol):
    """A tar; `load_index` comes before everything else."""

    @property
    def name(self) -> str:
        """The base name."""
        ...

    @property
    def size(self) -> int:
        """Bytes of the version that is indexed."""
        ...

    def load_index(
        self, cache_dir: pathlib.Path, options: source_options.Options
    ) -> tar_index.Index:
        """Returns the index; see `tar_index.load`."""
        ...

    def reader(self, span: Span, key: str) -> Read:
        """Returns the function that reads one record, whose files are in `span`."""
        ...

    def table(self) -> contextlib.AbstractContextManager[pathlib.Path | None]:
        """A file with the content of NAME.parquet beside the tar; None without one."""
        ...


class LocalTar:
    """A tar on a mounted disk; see `Tar`.

    Attributes:
      path: the file.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._stamp = retrying_reads.Stamp(0, 0)

    @property
    def name(self) -> str:
        """The base name."""
        return self.path.name

    @property
    def size(self) -> int:
        """Bytes of the indexed version."""
        return self._stamp.size

    def load_index(
        self, cache_dir: pathlib.Path, options: source_options.Options
    ) -> tar_index.Index:
        """Returns the index; see `tar_index.load`."""
        index, self._stamp = tar_index.load(self.path, cache_dir, options)
        return index

    def reader(self, span: Span, key: str) -> Read:
        """Returns the function that reads a record; see `retrying_reads.read_span`."""
        # Each read opens the file, which is thread-safe for any number of tars.
        return lambda offset, size: retrying_reads.read_span(
            self.path, offset, size, self._stamp, key
        )

    @property
    def parquet(self) -> pathlib.Path:
        """The place of the table beside the tar."""
        return self.path.with_suffix(".parquet")

    def table(self) -> contextlib.AbstractContextManager[pathlib.Path | None]:
        """The Parquet file beside the tar, if there is one."""
        return contextlib.nullcontext(self.parquet if self.parquet.is_file() else None)
