"""What was found out about pictures so far, on disk, a file for each few of them.

A file appears under its name when it is whole, so work that was cut off, whatever cut
it, goes on after the last. The settings lie beside the files: others are refused.
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
from glide_jax.eval import npz_files
from glide_jax.runtime import files

SETTINGS = "settings.json"
PARTS, SCRATCH = "[0-9]*-[0-9]*.npz", ".*.tmp"


class FeatureCache:
    """Arrays by the index of the picture they tell of, in the order of the indices.

    Attributes:
      settings: As given.
      next_index: The first picture that nothing is known of.
    """

    def __init__(self, folder: pathlib.Path, settings: dict[str, Any]):
        """Begins in `folder`, or goes on in it.

        Args:
          folder: Made if absent.
          settings: JSON values; all that the arrays depend on.

        Raises:
          UserError: The folder was begun with other settings; the message names the
              first that differs.
        """
        self._folder, self.settings = folder, settings
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / SETTINGS
        if path.exists():
            _check_same(files.read_json(path), settings, folder)
        else:
            # Parts of unknown settings: a removal was cut off.
            _delete(folder, PARTS)
            files.write_json(path, settings)
        _delete(folder, SCRATCH)
        self._files: list[pathlib.Path] = []
        self.next_index = 0
        for found in sorted(folder.glob(PARTS)):
            first, stop = (int(number) for number in found.stem.split("-"))
            if first != self.next_index or not zipfile.is_zipfile(found):
                # Damaged, or behind a gap, where it would hide those that fill it.
                found.unlink()
                continue
            self._files.append(found)
            self.next_index = stop

    def commit(self, stop: int, arrays: dict[str, np.ndarray]) -> None:
        """Keeps arrays of the pictures from `next_index` to stop - 1.

        Raises:
          UserError: The disk is full, or the like.
        """
        path = self._folder / f"{self.next_index:08d}-{stop:08d}.npz"
        npz_files.write(path, arrays)
        self._files.append(path)
        self.next_index = stop

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """The array of this name from file after file; files without it are passed."""
        for path in self._files:
            with np.load(path, allow_pickle=False) as file:
                if name in file.files:
                    yield file[name]

    def has(self, name: str) -> bool:
        """Whether the first pictures have such an array."""
        return any(True for _ in self.blocks(name))

    def rows(self, name: str) -> np.ndarray:
        """The array of this name whole: for features, not for pictures.

        Raises:
          UserError: Not one picture could be read.
        """
        blocks = list(self.blocks(name))
        if not blocks:
            raise UserError("not one picture could be read; check the data")
        return np.concatenate(blocks)

    def remove(self) -> None:
        """Takes away all that was kept."""
        # Settings first: parts without them are not gone on with.
        for pattern in (SETTINGS, PARTS, SCRATCH):
            _delete(self._folder, pattern)
        # What others have put there stays.
        with contextlib.suppress(OSError):
            self._folder.rmdir()


def _delete(folder: pathlib.Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink(missing_ok=True)


def _check_same(old: Any, new: dict[str, Any], folder: pathlib.Path) -> None:
    # By way of JSON, which knows no tuples.
    before, now = _flat(old), _flat(json.loads(json.dumps(new)))
    for name in dict.fromkeys([*now, *before]):
        if before.get(name) != now.get(name):
            raise UserError(
                f"{folder} was begun with {name}={before.get(name)} and this is "
                f"{name}={now.get(name)}; write elsewhere, or remove the folder"
            )


def _flat(settings: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {path: settings}
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{path}.{name}" if path else name)
    return flat
