"""Stores features of pictures on the disk, one file for each batch.

A file is renamed into place once it is complete, so an interrupted extraction continues
with the pictures that no file has. The settings are stored beside the files, and a
cache of other settings is refused.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from glide_jax.errors import UserError
from glide_jax.eval import npz_files, running_stats
from glide_jax.runtime import files

SETTINGS = "settings.json"
# [first, stop): indices of pictures
Span = tuple[int, int]
PARTS, SCRATCH = "[0-9]*-[0-9]*.npz", ".*.tmp"


class FeatureCache:
    """Arrays with a row for each picture, in the order of the pictures' indices.

    Several processes may fill one cache: each commits pictures of its own, and one of
    them collects their files.

    Attributes:
      settings: The settings that the arrays depend on.
    """

    def __init__(
        self, folder: pathlib.Path, settings: dict[str, Any], *, is_first: bool = True
    ):
        """Opens the cache of a folder, or creates it.

        Args:
          folder: Created if absent.
          settings: JSON values; everything that the arrays depend on.
          is_first: Whether this process opens the folder. Another one, which only
            commits files, changes nothing and knows of no files.

        Raises:
          UserError: The folder holds features of other settings; the error names the
            first that differs.
        """
        self._folder, self.settings = folder, settings
        self._files: dict[Span, pathlib.Path] = {}
        if is_first:
            self._open()

    def _open(self) -> None:
        folder = self._folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / SETTINGS
        if path.exists():
            remedy = "use another --output, or remove the folder"
            check_same(files.read_json(path), self.settings, str(folder), remedy)
        else:
            # Files without settings are left by an interrupted removal.
            _delete(folder, PARTS)
            files.write_json(path, self.settings)
        _delete(folder, SCRATCH)
        end = 0
        for path in sorted(folder.glob(PARTS)):
            first, stop = (int(number) for number in path.stem.split("-"))
            if first < end or not zipfile.is_zipfile(path):
                path.unlink()  # damaged, or made again
                continue
            self._files[first, stop] = path
            end = stop

    @property
    def spans(self) -> list[Span]:
        """The indices of the pictures with features, as [first, stop), in order."""
        return sorted(self._files)

    @property
    def next_index(self) -> int:
        """The index of the first picture without features."""
        end = 0
        for first, stop in self.spans:
            if first > end:
                break
            end = stop
        return end

    def path(self, span: Span) -> pathlib.Path:
        """Returns the file of the pictures of a span."""
        return self._folder / f"{span[0]:08d}-{span[1]:08d}.npz"

    def commit(
        self, stop: int, arrays: dict[str, np.ndarray], *, first: int | None = None
    ) -> None:
        """Stores arrays of the pictures from `first` to stop - 1.

        Args:
          stop: The index after the last picture.
          arrays: A row for each picture.
          first: `next_index` if left out.

        Raises:
          UserError: The file cannot be written.
        """
        span = (self.next_index if first is None else first, stop)
        npz_files.write(self.path(span), arrays)
        for other in self.spans:
            if other != span and other[0] < stop and span[0] < other[1]:
                self._files.pop(other).unlink(missing_ok=True)
        self._files[span] = self.path(span)

    def add(self, span: Span) -> None:
        """Adds the file of a span that another process committed."""
        self._files[span] = self.path(span)

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """Yields the array `name` of each file that has it."""
        for span in self.spans:
            with np.load(self._files[span], allow_pickle=False) as file:
                if name in file.files:
                    yield file[name]

    def has(self, name: str) -> bool:
        """Returns whether any file has the array `name`."""
        return any(True for _ in self.blocks(name))

    def rows(self, name: str) -> np.ndarray:
        """Returns the whole array `name`; meant for features, not for pixels.

        Raises:
          UserError: No picture could be read.
        """
        blocks = list(self.blocks(name))
        if not blocks:
            raise UserError("no picture could be read; check the data")
        return np.concatenate(blocks)

    def gaussian(self, name: str) -> running_stats.Gaussian:
        """Returns mean and covariance of the array `name`, block by block.

        Raises:
          UserError: There are fewer than two rows.
        """
        moments = running_stats.RunningMoments(0)
        for block in self.blocks(name):
            if not moments.count:
                moments = running_stats.RunningMoments(block.shape[1])
            moments.add(block)
        return moments.gaussian()

    def remove(self) -> None:
        """Deletes the files of the cache."""
        # Settings first: an interrupted removal must not look like a valid cache.
        for pattern in (SETTINGS, PARTS, SCRATCH):
            _delete(self._folder, pattern)
        # The folder stays where it holds other files.
        with contextlib.suppress(OSError):
            self._folder.rmdir()


def _delete(folder: pathlib.Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink(missing_ok=True)


def check_same(old: Any, new: dict[str, Any], where: str, remedy: str) -> None:
    """Raises UserError, which names the first that differs, unless settings are equal.

    Args:
      old: Settings as read from JSON.
      new: Settings.
      where: What has the old ones, for the error.
      remedy: End of the error.
    """
    # Through JSON, which turns tuples into lists.
    before, now = _flat(old), _flat(json.loads(json.dumps(new)))
    for name in dict.fromkeys([*now, *before]):
        if before.get(name) != now.get(name):
            raise UserError(
                f"{where} holds features of {name}={before.get(name)}, not "
                f"{name}={now.get(name)}; {remedy}"
            )


def _flat(settings: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {path: settings}
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{path}.{name}" if path else name)
    return flat
