"""Squares cover what is to be filled, each from what is known by then."""

from __future__ import annotations

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.sample import outpaint


@pytest.mark.parametrize(
    ("size", "margins"),
    [
        ((8, 8), (0, 0, 3, 0)),
        ((8, 8), (4, 0, 12, 0)),
        ((8, 8), (1, 2, 3, 4)),
        ((20, 12), (0, 9, 0, 0)),
        ((4, 6), (4, 4, 4, 4)),
    ],
)
def test_squares_fill_the_whole_canvas_and_each_touches_what_is_known(size, margins):
    picture = np.full((1, *size, 3), 7, np.uint8)
    canvas = outpaint.make_canvas(picture, outpaint.Margins(*margins))
    assert canvas.known.sum() == size[0] * size[1]

    def draw(part):
        assert part.known.shape == (8, 8)
        assert part.known.any()
        assert not part.known.all()
        return np.full_like(part.images, 9)

    outpaint.fill(canvas, 8, draw)
    assert canvas.known.all()
    # What was there stays where it was.
    left, top = margins[:2]
    inside = canvas.images[:, top : top + size[0], left : left + size[1]]
    np.testing.assert_array_equal(inside, picture)
    assert (canvas.images == 9).sum() == 3 * (canvas.known.size - size[0] * size[1])


@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (-1, 0, 4, 0)])
def test_margins_that_extend_nothing_are_refused(margins):
    with pytest.raises(errors.UserError, match="extend nothing"):
        outpaint.make_canvas(
            np.zeros((1, 8, 8, 3), np.uint8), outpaint.Margins(*margins)
        )


def test_a_canvas_smaller_than_a_square_is_refused():
    small = np.zeros((1, 3, 8, 3), np.uint8)
    canvas = outpaint.make_canvas(small, outpaint.Margins(right=4))
    with pytest.raises(errors.UserError, match="12 x 3 pixels"):
        outpaint.squares(canvas, 8)
