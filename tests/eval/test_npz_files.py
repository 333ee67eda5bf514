"""Arrays in .npz files, read and written by rows."""

from __future__ import annotations

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.eval import npz_files

ROWS = np.arange(7 * 5 * 3, dtype=np.int32).reshape(7, 5, 3)


def test_rows_are_those_that_numpy_wrote_compressed_or_not(tmp_path):
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", arr_0=ROWS, mu=np.zeros(3))
        reader = npz_files.RowReader(tmp_path / "a.npz", "arr_0")
        assert (reader.shape, reader.dtype) == ((7, 5, 3), np.int32)
        for first, stop in ((2, 4), (4, 7), (0, 1), (6, 9)):
            np.testing.assert_array_equal(reader.rows(first, stop), ROWS[first:stop])


def test_what_is_written_in_blocks_is_read_whole_by_numpy(tmp_path):
    blocks = (ROWS[i : i + 2] for i in range(0, 7, 2))
    npz_files.write(
        tmp_path / "a.npz",
        {"arr_0": npz_files.Streamed(ROWS.shape, "int32", blocks), "mu": np.ones(2)},
    )
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["arr_0"], ROWS)
        np.testing.assert_array_equal(file["mu"], np.ones(2))
    assert npz_files.names(tmp_path / "a.npz") == {"arr_0", "mu"}
    assert list(npz_files.read_small(tmp_path / "a.npz", but=("arr_0",))) == ["mu"]


def test_a_digest_names_what_is_in_a_file_and_not_how_it_was_written(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, arr_0=ROWS, mu=np.zeros(3))
    first = npz_files.digest(path)
    np.savez_compressed(path, mu=np.zeros(3), arr_0=ROWS)
    assert npz_files.digest(path) == first
    np.savez(path, arr_0=ROWS, mu=np.ones(3))
    assert npz_files.digest(path) != first


def test_a_file_that_fails_while_it_is_written_leaves_none_behind(tmp_path):
    def failing():
        yield ROWS[:2]
        raise RuntimeError("cut off")

    streamed = npz_files.Streamed(ROWS.shape, "int32", failing())
    with pytest.raises(RuntimeError):
        npz_files.write(tmp_path / "a.npz", {"arr_0": streamed})
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_refused_by_name(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(errors.UserError, match="does not exist"):
        npz_files.names(path)
    path.write_bytes(b"nothing")
    for read in (npz_files.names, npz_files.read_small, npz_files.digest):
        with pytest.raises(errors.UserError, match=r"a\.npz cannot be read"):
            read(path)
    np.savez(path, arr_0=np.asfortranarray(ROWS), objects=np.array([{}], object))
    with pytest.raises(errors.UserError, match="array lacking cannot be read"):
        npz_files.RowReader(path, "lacking")
    for name in ("arr_0", "objects"):
        with pytest.raises(errors.UserError, match="is not stored row by row"):
            npz_files.RowReader(path, name)
    # No pickle is ever opened: it could run anything.
    with pytest.raises(errors.UserError, match="cannot be read"):
        npz_files.read_small(path)
