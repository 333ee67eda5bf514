"""Squares cover a picture, and are put together to it."""

from __future__ import annotations

import numpy as np
import pytest

from glide_jax.sample import region


@pytest.mark.parametrize("size", [(8, 8), (30, 17), (3, 20), (5, 4), (9, 8)])
@pytest.mark.parametrize("factor", [1, 4])
def test_a_picture_is_put_together_from_its_squares(size, factor):
    pictures = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    grid = region.Tiles(*size, 8)
    squares = list(grid.cut(pictures))
    assert len(squares) == len(grid)
    for i, picture in enumerate(pictures):
        enlarged = np.stack(
            [np.kron(s[i], np.ones((factor, factor, 1))) for s in squares]
        )
        joined = grid.join(enlarged.astype(np.uint8))
        expected = np.kron(picture, np.ones((factor, factor, 1)))
        np.testing.assert_array_equal(joined, expected)


def test_squares_overlap_by_a_quarter_and_are_blended_there():
    grid = region.Tiles(8, 14, 8)
    first, second = grid.cut(np.arange(8 * 14 * 3, dtype=np.uint8).reshape(1, 8, 14, 3))
    np.testing.assert_array_equal(first[:, :, 6:], second[:, :, :2])
    levels = grid.join(np.stack([np.full((32, 32, 3), v, np.uint8) for v in (0, 200)]))
    row = levels[5, :, 0].astype(int)
    assert not row[:24].any()
    assert (row[32:] == 200).all()
    assert (np.diff(row[23:33]) > 0).all()
