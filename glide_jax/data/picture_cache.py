"""Keeps pictures at the size of training on disk, so that each is decoded once.

A picture is found by the SHA-256 of its file's bytes, so that one that has changed is
decoded again, and sources, runs and processes share what they have in common. The
pixels are those that decoding would give, bit for bit. Files appear whole, under their
final name, and carry a checksum: any number of processes may read and write at once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pathlib
import threading
from collections.abc import Callable

import numpy as np
import PIL
from jaxtyping import UInt8
from PIL import features

from glide_jax.runtime import files

_log = logging.getLogger(__name__)
# To be raised with each change of how a file becomes the pixels of a size.
VERSION = 1
_CHECKSUM_BYTES = 16
_SUFFIX = ".rgb"


class PictureCache:
    """Pictures of one size in a folder, which the first write makes.

    A folder that cannot be written, as on a full disk, costs one line in the log;
    pictures that are not in it are decoded each time from then on.
    """

    def __init__(self, directory: pathlib.Path, px: int) -> None:
        """Args:
        directory: of pictures of all sizes; local to the machine.
        px: the side of the pictures.
        """
        # Another release of a decoder may give other pixels.
        decoders = (f"{name}{features.version(name)}" for name in ("jpg", "webp"))
        made_by = f"pillow{PIL.__version__}-{'-'.join(decoders)}"
        self.folder = directory / f"{px}px-{VERSION}-{made_by.replace(os.sep, '_')}"
        self._px = px
        self._is_writing = True
        self._lock = threading.Lock()

    def load(
        self, content: bytes, make: Callable[[], UInt8[np.ndarray, "h w 3"]]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels (px, px, 3) of a file: from the cache, or made and kept there.

        Args:
          content: the bytes of the picture's file.
          make: decodes them; what it raises is raised, and nothing is kept.
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
        # A machine that lost power may have kept the name of a file and not its end.
        if len(pixels) != 3 * self._px**2 or _checksum(pixels) != checksum:
            return None
        return np.frombuffer(pixels, np.uint8).reshape(self._px, self._px, 3)

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
                    "data.cache_dir=%s cannot be written (%s): pictures that are not "
                    "in it are decoded each time from here on",
                    self.folder.parent,
                    fault.strerror,
                )


def bytes_of(num_records: int, px: int) -> int:
    """The bytes of the files of so many pictures, of which a disk may take more."""
    return num_records * (3 * px**2 + _CHECKSUM_BYTES)


def _checksum(pixels: bytes) -> bytes:
    return hashlib.blake2b(pixels, digest_size=_CHECKSUM_BYTES).digest()
