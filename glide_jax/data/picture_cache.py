"""Caches decoded pictures at the training size on a local disk.

The key is the SHA-256 of the picture's file, so a changed file is decoded again, and
sources, runs and processes share a cache. Cached pixels equal decoded ones bit for bit.
Files are written atomically with a checksum, so any number of processes may read and
write at once. The modification time of a file is its last use, to within a day, and
`prune` removes the files that were not used for the longest time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pathlib
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import PIL
from jaxtyping import UInt8
from PIL import features

from glide_jax.errors import UserError
from glide_jax.runtime import files

_log = logging.getLogger(__name__)
# Increased with each change of decoding or resizing.
VERSION = 1
_CHECKSUM_BYTES = 16
_SUFFIX = ".rgb"
_DAY_SECS = 86400.0


class PictureCache:
    """Pictures of one size in a folder, which the first write creates.

    If the folder cannot be written, e.g. on a full disk, one warning is logged, and
    pictures that it lacks are decoded each time.
    """

    def __init__(self, directory: pathlib.Path, px: int) -> None:
        """Creates a cache of pictures (px, px, 3) in `directory`, for all sizes."""
        # Pixels may differ between releases of a decoder.
        decoders = (f"{name}{features.version(name)}" for name in ("jpg", "webp"))
        made_by = f"pillow{PIL.__version__}-{'-'.join(decoders)}"
        self.folder = directory / f"{px}px-{VERSION}-{made_by.replace(os.sep, '_')}"
        self._px = px
        self._is_writing = True
        self._lock = threading.Lock()

    def load(
        self, content: bytes, make: Callable[[], UInt8[np.ndarray, "h w 3"]]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the pixels (px, px, 3) of a file, from the cache if it has them.

        Args:
          content: the bytes of the picture's file.
          make: decodes them; its errors are raised, and nothing is stored.
        """
        name = hashlib.sha256(content).hexdigest()
        path = self.folder / name[:2] / f"{name[2:]}{_SUFFIX}"
        found = self._read(path)
        if found is None:
            found = make()
            if self._is_writing:
                self._write(path, found.tobytes())
        return found

    def _read(self, path: pathlib.Path) -> UInt8[np.ndarray, "h w 3"] | None:
        try:
            stored = path.read_bytes()
        except OSError:
            return None
        pixels, checksum = stored[:-_CHECKSUM_BYTES], stored[-_CHECKSUM_BYTES:]
        # A file may be truncated after a power failure.
        if len(pixels) != 3 * self._px**2 or _checksum(pixels) != checksum:
            return None
        self._mark_used(path)
        return np.frombuffer(pixels, np.uint8).reshape(self._px, self._px, 3)

    def _mark_used(self, path: pathlib.Path) -> None:
        # The folder may be read-only, and another process may prune the file.
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _DAY_SECS:
                os.utime(path)

    def _write(self, path: pathlib.Path, pixels: bytes) -> None:
        content = pixels + _checksum(pixels)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not flushed to the disk, which is slow: the checksum finds a damaged file.
            files.write_bytes(path, content, is_shared=True, is_durable=False)
        except OSError as fault:
            with self._lock:
                is_first, self._is_writing = self._is_writing, False
            if is_first:
                _log.warning(
                    "data.cache_dir=%s cannot be written (%s): pictures that it lacks "
                    "are decoded each time",
                    self.folder.parent,
                    fault.strerror,
                )


class Pruned(NamedTuple):
    """The result of `prune`: numbers of pictures, and the size of those that remain."""

    removed: int
    kept: int
    kept_bytes: int


def prune(directory: pathlib.Path, max_bytes: int) -> Pruned:
    """Removes the pictures of a cache that were not used for the longest time.

    Runs that use the cache decode a removed picture again.

    Args:
      directory: the folder of `PictureCache`; pictures of all sizes count.
      max_bytes: the largest total size of the files that are kept; 0: none is.

    Raises:
      UserError: a file cannot be removed.
    """
    used = []
    for path in directory.glob(f"*px-*/??/*{_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # removed by another process
            status = path.stat()
            used.append((status.st_mtime, status.st_size, path))
    used.sort(key=lambda file: file[0], reverse=True)
    kept = kept_bytes = 0
    for _, size, _ in used:
        if kept_bytes + size > max_bytes:
            break
        kept, kept_bytes = kept + 1, kept_bytes + size
    try:
        for _, _, path in used[kept:]:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be removed ({error.strerror}); prune the cache "
            "as its owner"
        ) from error
    return Pruned(len(used) - kept, kept, kept_bytes)


def bytes_of(num_records: int, px: int) -> int:
    """Returns the total size, bytes, of the files of `num_records` pictures."""
    return num_records * (3 * px**2 + _CHECKSUM_BYTES)


def _checksum(pixels: bytes) -> bytes:
    return hashlib.blake2b(pixels, digest_size=_CHECKSUM_BYTES).digest()
