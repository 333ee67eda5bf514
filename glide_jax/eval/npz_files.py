"""Reads and writes arrays in .npz files block by block.

numpy reads a member of the archive whole; a sample batch of 50,000 pictures of 256 px
would take 10 GB.
"""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from glide_jax.errors import UserError
from glide_jax.runtime import files

# Errors of reading a damaged archive, or a file of another kind.
_BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class Streamed(NamedTuple):
    """An array to write that is never whole in memory: blocks of its rows."""

    shape: tuple[int, ...]
    dtype: str
    blocks: Iterable[np.ndarray]


class RowReader:
    """Reads rows of one array of an archive.

    Attributes:
      shape: Shape of the whole array.
      dtype: Its type.
      checksum: CRC-32 of its bytes, as recorded in the archive.
    """

    def __init__(self, path: str | pathlib.Path, name: str):
        """Opens the array.

        Raises:
          UserError: The archive or the array cannot be read.
        """
        self._path, self._name = path, name
        try:
            archive = zipfile.ZipFile(path)
            self._file = archive.open(f"{name}.npy")
            self.checksum = f"{archive.getinfo(f'{name}.npy').CRC:08x}"
            version = np.lib.format.read_magic(self._file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            self.shape, is_fortran, self.dtype = read(self._file)
        except _BROKEN as error:
            raise UserError(
                f"{path}: array {name} cannot be read ({error}); give a .npz file that "
                "numpy wrote"
            ) from error
        if is_fortran or self.dtype.hasobject or not self.shape:
            raise UserError(
                f"{path}: array {name} is not stored row by row; save it again by "
                "numpy.savez, from numpy.ascontiguousarray of numbers"
            )
        self._start = self._file.tell()

    def rows(self, first: int, stop: int) -> np.ndarray:
        """Returns rows first to stop - 1; cheap if they follow the rows read before.

        Raises:
          UserError: The file is truncated or damaged.
        """
        stop = min(stop, self.shape[0])
        row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        size = (stop - first) * row_bytes
        try:
            self._file.seek(self._start + first * row_bytes)
            content = self._file.read(size)
        except _BROKEN as error:
            content, reason = b"", error
        else:
            reason = "truncated"
        if len(content) < size:
            raise UserError(
                f"{self._path}: rows {first} to {stop} of {self._name} cannot be read "
                f"({reason}); copy the file again"
            )
        shape = (stop - first, *self.shape[1:])
        return np.frombuffer(content, self.dtype).reshape(shape)


def read_small(
    path: str | pathlib.Path, but: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Returns all arrays of an archive except those of the names in `but`.

    Raises:
      UserError: The file is not an archive of plain arrays.
    """
    with _as_user_error(path), np.load(path, allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("one array, not an archive")
        return {name: file[name] for name in file.files if name not in but}


def names(path: str | pathlib.Path) -> set[str]:
    """Returns the names of the arrays in an archive.

    Raises:
      UserError: The file is not an archive.
    """
    with _as_user_error(path), zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


def digest(path: str | pathlib.Path) -> str:
    """Returns 12 hexadecimal digits that identify the contents of an archive.

    They derive from the CRC-32 of its arrays, so an archive of any size takes no time.

    Raises:
      UserError: The file is not an archive.
    """
    with _as_user_error(path), zipfile.ZipFile(path) as archive:
        arrays = sorted((f.filename, f.file_size, f.CRC) for f in archive.infolist())
    return hashlib.sha256(repr(arrays).encode()).hexdigest()[:12]


@contextlib.contextmanager
def _as_user_error(path: str | pathlib.Path) -> Iterator[None]:
    """Raises UserError in place of the errors of a missing or damaged file."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; name a .npz file") from error
    except _BROKEN as error:
        raise UserError(
            f"{path} cannot be read ({error}); give a .npz file that numpy wrote"
        ) from error


def write(path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
    """Writes an archive as numpy.savez does, whole or not at all.

    Args:
      path: Ends in .npz.
      arrays: numpy arrays, or `Streamed`.

    Raises:
      UserError: The file cannot be written.
    """
    try:
        with (
            files.scratch(path) as draft,
            zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive,
        ):
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    _write_array(member, array)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _write_array(member: Any, array: np.ndarray | Streamed) -> None:
    if not isinstance(array, Streamed):
        np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        return
    header = {
        "descr": np.dtype(array.dtype).str,
        "fortran_order": False,
        "shape": array.shape,
    }
    np.lib.format.write_array_header_1_0(member, header)
    for block in array.blocks:
        member.write(np.ascontiguousarray(block, array.dtype).tobytes())
