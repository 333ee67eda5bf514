"""Squares that are filled in turn to extend a picture beyond the model's size.

Each square is as large as the model's picture and half of it is known already, so that
what is drawn goes on from what is there.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable
from typing import NamedTuple

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
    """Pictures being extended, all by the same margins.

    Attributes:
      images: uint8 (N, H, W, 3); where unknown the nearest known pixel, which does
          not darken what is known when the picture is made smaller.
      known: bool (H, W).
    """

    images: np.ndarray
    known: np.ndarray


# A square of the canvas -> its pictures, uint8 (N, side, side, 3), every pixel known
Draw = Callable[[Canvas], np.ndarray]


def make_canvas(images: np.ndarray, margins: Margins) -> Canvas:
    """The pictures with unknown margins around them.

    Raises:
      UserError: No margin, or a negative one; pictures that are not RGB, uint8.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise UserError(
            f"images are {images.dtype} {images.shape}; give uint8 (N, H, W, 3)"
        )
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


def as_margins(margins: object) -> Margins:
    """Raises UserError unless these are four whole numbers."""
    is_row = isinstance(margins, tuple | list) and len(margins) == 4
    if not is_row or not all(
        isinstance(m, numbers.Real) and 0 <= m <= MAX_MARGIN and m == int(m)
        for m in margins
    ):
        raise UserError(
            f"margins {margins!r}; give four whole numbers from 0 to {MAX_MARGIN}: "
            "pixels to add at the left, top, right and bottom"
        )
    return Margins(*map(int, margins))


def squares(canvas: Canvas, side: int) -> list[tuple[int, int]]:
    """(top, left) of each square that has something to fill, in drawing order.

    They start from the one that knows most and move by half a side, so each overlaps
    what is known or was filled before it.

    Raises:
      UserError: A canvas smaller than a square.
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
      canvas: As from `make_canvas`.
      side: Of the squares, the model's picture.
      draw: What fills the unknown part of one square.
    """
    for at in squares(canvas, side):
        part = window(canvas, at, side)
        known = part.known[..., None]
        part.images[:] = np.where(known, part.images, draw(part))
        part.known[:] = True


def window(canvas: Canvas, at: tuple[int, int], side: int) -> Canvas:
    """One square of the canvas, a view: what is written there is filled."""
    area = _window(at, side)
    return Canvas(canvas.images[(slice(None), *area)], canvas.known[area])


def _places(length: int, side: int) -> list[int]:
    """Starts of squares along one axis, half a side apart, the last at the end."""
    starts = list(range(0, length - side + 1, max(1, side // 2)))
    return starts if starts[-1] == length - side else [*starts, length - side]


def _window(at: tuple[int, int], side: int) -> tuple[slice, slice]:
    return slice(at[0], at[0] + side), slice(at[1], at[1] + side)


def _share(known: np.ndarray, at: tuple[int, int], side: int) -> float:
    return float(known[_window(at, side)].mean())
