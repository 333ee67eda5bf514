"""Overlapping squares that cover a picture, and the picture put together from them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from glide_jax.runtime import counts

Pictures = UInt8[np.ndarray, "n h w 3"]
# Share of a square's side that it has in common with the next, at least.
_OVERLAP = 0.25


class Tiles:
    """How pictures of one size are cut into squares of one side.

    A picture shorter than a square is continued by its last row or column.
    """

    def __init__(self, height: int, width: int, side: int):
        """Of pictures (height, width), in squares of `side` pixels."""
        self._size, self._side = (height, width), side
        self._tops, self._lefts = (_starts(n, side) for n in self._size)

    def __len__(self) -> int:
        return len(self._tops) * len(self._lefts)

    def statement(self, factor: int) -> str:
        """What becomes of a picture enlarged by `factor`, for a user to read."""
        height, width = self._size
        squares = counts.counted(len(self), "square")
        return (
            f"{width} x {height} px, enlarged to {width * factor} x {height * factor} "
            f"in {squares} of {self._side} x {self._side}"
        )

    def cut(self, pictures: Pictures) -> Iterator[Pictures]:
        """Each square of all pictures, from left to right and top to bottom."""
        pad = [(0, max(0, self._side - n)) for n in self._size]
        pictures = np.pad(pictures, ((0, 0), *pad, (0, 0)), mode="edge")
        for top in self._tops:
            rows = pictures[:, top : top + self._side]
            for left in self._lefts:
                yield rows[:, :, left : left + self._side]

    def join(self, squares: UInt8[np.ndarray, "k s s 3"]) -> np.ndarray:
        """One picture from its squares, which are enlarged by a whole factor.

        Where squares overlap, each counts the more, the farther from its border.
        """
        factor = len(squares[0]) // self._side
        height, width = (max(n, self._side) * factor for n in self._size)
        total = np.zeros((height, width, 3), np.float32)
        weight = np.zeros((height, width, 1), np.float32)
        side = self._side * factor
        ramp = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
        ramp = np.minimum(ramp, _OVERLAP * side).astype(np.float32)
        own = ramp[:, None, None] * ramp[:, None]
        places = [(top, left) for top in self._tops for left in self._lefts]
        for (top, left), square in zip(places, squares, strict=True):
            rows = slice(top * factor, top * factor + side)
            columns = slice(left * factor, left * factor + side)
            total[rows, columns] += own * square
            weight[rows, columns] += own
        joined = np.round(total / weight).astype(np.uint8)
        return joined[: self._size[0] * factor, : self._size[1] * factor]


def _starts(length: int, side: int) -> list[int]:
    """Even steps along an axis; the last square ends with the picture."""
    step = side - math.ceil(_OVERLAP * side)
    count = 1 + max(0, math.ceil((length - side) / max(1, step)))
    return [int(start) for start in np.linspace(0, max(0, length - side), count)]
