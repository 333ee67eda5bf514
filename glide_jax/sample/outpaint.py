"""Extends pictures beyond their sides, square by square.

Each square has the size of the model's picture, and half of it is known, so that the
drawn half continues it.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from glide_jax.errors import UserError

MAX_MARGIN = 65_536


class Margins(NamedTuple):
    """Pixels to add at each side."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


@dataclasses.dataclass
class Canvas:
    """Pictures that are extended by the same margins.

    Attributes:
      images: uint8 (N, H, W, 3). Unknown pixels have the value of the nearest known
        one, so that known ones keep their colours when the picture is resized.
      known: bool (H, W).
    """

    images: np.ndarray
    known: np.ndarray


# A square of the canvas -> its pictures, uint8 (N, side, side, 3), every pixel known
Draw = Callable[[Canvas], np.ndarray]


def make_canvas(images: np.ndarray, margins: Margins) -> Canvas:
    """Returns pictures, uint8 (N, H, W, 3), with unknown margins around them.

    Raises:
      UserError: no margin, or a negative one.
    """
    if min(margins) < 0 or max(margins) < 1:
        raise UserError(
            f"margins {tuple(margins)} extend nothing; give pixels to add at the left, "
            "top, right and bottom, at least one above 0"
        )
    left, top, right, bottom = margins
    size = images.shape[1:3]
    pad = ((top, bottom), (left, right))
    return Canvas(
        np.pad(images, ((0, 0), *pad, (0, 0)), mode="edge"),
        np.pad(np.ones(size, bool), pad),
    )


def as_margins(margins: Any) -> Margins:
    """Returns four whole numbers as margins; raises UserError for anything else."""
    is_row = isinstance(margins, tuple | list) and len(margins) == 4
    if not is_row or not all(
        isinstance(m, numbers.Real) and m in range(MAX_MARGIN + 1) for m in margins
    ):
        raise UserError(
            f"margins {margins!r}; give four whole numbers from 0 to {MAX_MARGIN}: "
            "pixels to add at the left, top, right and bottom"
        )
    return Margins(*map(int, margins))


def squares(canvas: Canvas, side: int) -> list[tuple[int, int]]:
    """Returns (top, left) of each square with unknown pixels, in drawing order.

    The first has the most known pixels. Squares are half a side apart, so each overlaps
    known or filled pixels.

    Raises:
      UserError: a canvas smaller than a square.
    """
    height, width = canvas.known.shape
    if min(height, width) < side:
        raise UserError(
            f"the extended picture is {width} x {height} pixels, smaller than the "
            f"model's {side}; extend it further, or enlarge the picture first"
        )
    places = [
        (top, left) for top in _places(height, side) for left in _places(width, side)
    ]
    known = canvas.known.copy()
    order: list[tuple[int, int]] = []
    while places:
        top_left = max(places, key=lambda at: (_share(known, at, side), -at[0], -at[1]))
        places.remove(top_left)
        window = _window(top_left, side)
        if not known[window].all():
            order.append(top_left)
            known[window] = True
    return order


def fill(canvas: Canvas, side: int, draw: Draw) -> None:
    """Fills the canvas in place, square by square.

    Args:
      canvas: from `make_canvas`.
      side: side of the squares, the model's picture.
      draw: fills the unknown part of one square.
    """
    for at in squares(canvas, side):
        area = _window(at, side)
        # Views of the canvas.
        part = Canvas(canvas.images[(slice(None), *area)], canvas.known[area])
        part.images[:] = np.where(part.known[..., None], part.images, draw(part))
        part.known[:] = True


def _places(length: int, side: int) -> list[int]:
    """Returns the starts of squares along an axis; the last one ends with it."""
    starts = list(range(0, length - side + 1, max(1, side // 2)))
    return starts if starts[-1] == length - side else [*starts, length - side]


def _window(at: tuple[int, int], side: int) -> tuple[slice, slice]:
    return slice(at[0], at[0] + side), slice(at[1], at[1] + side)


def _share(known: np.ndarray, at: tuple[int, int], side: int) -> float:
    return float(known[_window(at, side)].mean())
