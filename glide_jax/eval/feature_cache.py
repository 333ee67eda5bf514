"""Stores features of pictures on the disk, one file for each batch.

A file is renamed into place once it is complete, so an interrupted extraction continues
after the last complete file. The settings are stored beside the files, and a cache of
other settings is refused.
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
PARTS, SCRATCH = "[0-9]*-[0-9]*.npz", ".*.tmp"


class FeatureCache:
    """Arrays with a row for each picture, in the order of the pictures' indices.

    Attributes:
      settings: The settings that the arrays depend on.
      next_index: The index of the first picture without features.
    """

    def __init__(self, folder: pathlib.Path, settings: dict[str, Any]):
        """Opens the cache of a folder, or creates it.

        Args:
          folder: Created if absent.
          settings: JSON values; everything that the arrays depend on.

        Raises:
          UserError: The folder holds features of other settings; the error names the
            first that differs.
        """
        self._folder, self.settings = folder, settings
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / SETTINGS
        if path.exists():
            _check_same(files.read_json(path), settings, folder)
        else:
            # Files without settings are left by an interrupted removal.
            _delete(folder, PARTS)
            files.write_json(path, settings)
        _delete(folder, SCRATCH)
        self._files: list[pathlib.Path] = []
        self.next_index = 0
        for path in sorted(folder.glob(PARTS)):
            first, stop = (int(number) for number in path.stem.split("-"))
            if first != self.next_index or not zipfile.is_zipfile(path):
                # Damaged, or behind a gap that new files will fill.
                path.unlink()
                continue
            self._files.append(path)
            self.next_index = stop

    def commit(self, stop: int, arrays: dict[str, np.ndarray]) -> None:
        """Stores arrays of the pictures from `next_index` to stop - 1.

        Raises:
          UserError: The file cannot be written.
        """
        path = self._folder / f"{self.next_index:08d}-{stop:08d}.npz"
        npz_files.write(path, arrays)
        self._files.append(path)
        self.next_index = stop

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """Yields the array `name` of each file that has it."""
        for path in self._files:
            with np.load(path, allow_pickle=False) as file:
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


def _check_same(old: Any, new: dict[str, Any], folder: pathlib.Path) -> None:
    # Through JSON, which turns tuples into lists.
    before, now = _flat(old), _flat(json.loads(json.dumps(new)))
    for name in dict.fromkeys([*now, *before]):
        if before.get(name) != now.get(name):
            raise UserError(
                f"{folder} holds features of {name}={before.get(name)}, not "
                f"{name}={now.get(name)}; use another --output, or remove the folder"
            )


def _flat(settings: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {path: settings}
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{path}.{name}" if path else name)
    return flat
