"""Cuts squares out of pictures for a model, and pastes the drawn ones back.

A model draws squares of one size. To repaint a part of a photo, a square around that
part is drawn at the model's size and pasted back; to edit a photo, the square around
all of it. Beyond the picture's border, a square has the nearest pixels of the picture,
which are unknown and are cut off again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy import ndimage

from glide_jax.runtime import wording

Picture = UInt8[np.ndarray, "h w 3"]
# A square of it, and a drawn square.
Part = UInt8[np.ndarray, "side side 3"]
Drawn = UInt8[np.ndarray, "px px 3"]
# True = known
Mask = Bool[np.ndarray, "h w"]

# Side of the square relative to the box around the repainted pixels: preferred, and
# least if the picture is too small.
_CONTEXT, _LEAST_CONTEXT = 2.0, 1.25
# Width of the band, in pixels of the model, over which a drawn part is shifted to the
# colours of the picture around it.
_SEAM = 8
# A larger difference, in levels, is an edge in the drawn part.
_MOST_SHIFT = 32


class Square(NamedTuple):
    """Pixels of a picture; left and top are negative beyond its border."""

    left: int
    top: int
    side: int


def around_hole(known: Mask, model_px: int, feather_px: int = 0) -> Square:
    """Returns the square to draw for the unknown pixels of a picture.

    Its side is about twice that of the box around them, and at least `model_px`. It
    stays within the picture if a square within the picture can hold the box.

    Args:
      known: mask of the whole picture, with unknown pixels.
      model_px: side of the model's pictures.
      feather_px: width of the known pixels around the hole that change as well.
    """
    size = known.shape
    boxes = [np.flatnonzero((~known).any(axis=1 - axis)) for axis in (0, 1)]
    extent = max(int(box[-1] - box[0]) + 1 for box in boxes) + 2 * feather_px
    side = max(math.ceil(_CONTEXT * extent), model_px)
    if side > min(size):
        least = math.ceil(_LEAST_CONTEXT * extent)
        side = max(min(size), min(least, max(size)))
    top, left = (
        _start((int(box[0]) + int(box[-1]) + 1) / 2, side, length)
        for box, length in zip(boxes, size, strict=True)
    )
    return Square(left, top, side)


def _start(centre: float, side: int, length: int) -> int:
    """Returns the start of a square along an axis, within the picture if possible."""
    if side >= length:
        return -((side - length) // 2)
    return min(max(round(centre - side / 2), 0), length - side)


def around_all(height: int, width: int) -> Square:
    """Returns the smallest square around a whole picture, centred."""
    side = max(height, width)
    return Square(-((side - width) // 2), -((side - height) // 2), side)


def statement(size: tuple[int, int], square: Square, model_px: int) -> str:
    """Returns a line for the user about the square of a picture of `size` (H, W)."""
    height, width = size
    drawn = f"drawn at {model_px} x {model_px} px"
    if square == around_all(height, width):
        continued = "" if height == width else ", continued to a square by its borders,"
        return f"picture {width} x {height}{continued} is {drawn} as a whole"
    return (
        f"picture {width} x {height}: the {square.side} x {square.side} square at "
        f"({square.left}, {square.top}) around what is repainted is {drawn} and pasted "
        "back"
    )


def cut(picture: Picture, square: Square) -> Part:
    """Returns the square of a picture; pixels beyond it have the nearest value."""
    height, width = picture.shape[:2]
    steps = np.arange(square.side)
    rows = np.clip(square.top + steps, 0, height - 1)
    columns = np.clip(square.left + steps, 0, width - 1)
    return picture[rows[:, None], columns]


def cut_mask(
    known: Mask, square: Square, model_px: int, feather_px: int = 0
) -> Bool[np.ndarray, "side side"]:
    """Returns the square of a mask; pixels beyond the picture are unknown.

    If the square is shrunk for the model and the edge is not soft, the hole is two
    pixels of the model wider, where `paste` compares drawn and known pixels.
    """
    part = _cut_known(known, square)
    if square.side > model_px and not feather_px:
        part = distance(part) > 2 * math.ceil(square.side / model_px)
    return part


def cut_back(drawn: Drawn, square: Square, size: tuple[int, int]) -> Picture:
    """Returns the picture of `size` (H, W) in a drawn square around it, resized."""
    _, in_square = _windows(size, square)
    return _resized(drawn, square.side)[in_square]


def paste(
    picture: Picture,
    known: Mask,
    square: Square,
    drawn: Drawn,
    feather_px: int = 0,
) -> Picture:
    """Returns the picture with its unknown pixels from the drawn square.

    Known pixels are unchanged, except those at a chessboard distance of at most
    `feather_px` from an unknown one, which are blended with the drawn ones.

    Args:
      picture: the whole picture.
      known: its mask.
      square: from `around_hole`.
      drawn: the square at the model's resolution, its hole from `cut_mask`. If it is
        enlarged here and the edge is not soft, its colours are shifted to the
        picture's along the seam.
      feather_px: width of the soft edge.
    """
    in_picture, in_square = _windows(known.shape, square)
    weight = kept_share(known[in_picture], feather_px)[..., None]
    before, after = picture[in_picture], _resized(drawn, square.side)
    if square.side > len(drawn) and not feather_px:
        shift = _seam(cut(picture, square), _cut_known(known, square), drawn)
        after = _to_pixels(after + shift)
    after = after[in_square]
    if len(drawn) != square.side:
        # A square of the model's size is blended by the stage.
        after = _to_pixels(weight * before + (1 - weight) * after)
    result = picture.copy()
    result[in_picture] = np.where(weight < 1, after, before)
    return result


def kept_share(known: Mask, feather_px: int) -> Float[np.ndarray, "h w"]:
    """Returns the kept share of each pixel, 0 to 1; see `inpainting.feather`."""
    share = distance(known) / np.float32(feather_px + 1)
    return np.minimum(share, 1, dtype=np.float32)


def distance(known: Mask) -> np.ndarray:
    """Returns the chessboard distance of each pixel from the nearest unknown one."""
    return np.asarray(ndimage.distance_transform_cdt(known, "chessboard"))


def _seam(
    picture: Part, known: Bool[np.ndarray, "side side"], drawn: Drawn
) -> Float[np.ndarray, "side side 3"]:
    """Returns the shift that fits the colours of a drawn hole to the picture.

    It is the difference of the two in known pixels next to the hole, where it is small,
    spread into the hole and faded over `_SEAM` pixels of the model. It is smooth, and
    computed at the model's resolution.
    """
    side, model_px = len(picture), len(drawn)
    away = distance(known)
    rim = (away > 0) & (away <= math.ceil(side / model_px))
    difference = np.subtract(picture, _resized(drawn, side), dtype=np.float32)
    layers = np.concatenate([difference * rim[..., None], rim[..., None]], axis=-1)
    *small, share = np.moveaxis(_resized_layers(layers, model_px), -1, 0)
    is_tint = np.abs(small).max(axis=0) <= _MOST_SHIFT * share
    spread = [ndimage.gaussian_filter(one * is_tint, _SEAM / 3) for one in small]
    total = ndimage.gaussian_filter(share, _SEAM / 3)
    is_hole = _resized_layers((away == 0)[..., None], model_px)[..., 0] > 1 - 1e-6
    depth = np.asarray(ndimage.distance_transform_edt(is_hole))
    fade = np.clip(1 - depth / _SEAM, 0, 1)
    shift = np.stack(spread, axis=-1) * (fade / np.maximum(total, 1e-6))[..., None]
    return _resized_layers(shift, side)


def _cut_known(known: Mask, square: Square) -> Bool[np.ndarray, "side side"]:
    part = np.zeros((square.side, square.side), bool)
    in_picture, in_square = _windows(known.shape, square)
    part[in_square] = known[in_picture]
    return part


def _windows(
    size: tuple[int, ...], square: Square
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Returns the overlap of picture and square, as windows of each."""
    in_picture, in_square = [], []
    for start, length in zip((square.top, square.left), size, strict=True):
        first, last = max(start, 0), min(start + square.side, length)
        in_picture.append(slice(first, last))
        in_square.append(slice(first - start, last - start))
    return tuple(in_picture), tuple(in_square)


def _to_pixels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _resized(drawn: Drawn, side: int) -> Part:
    bicubic = Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(drawn).resize((side, side), bicubic))


def _resized_layers(layers: np.ndarray, side: int) -> Float[np.ndarray, "s s c"]:
    """Resizes layers, by area means to smaller sizes and bilinearly to larger ones."""
    method = Image.Resampling.BOX if side < len(layers) else Image.Resampling.BILINEAR
    resized = [
        np.asarray(Image.fromarray(layer).resize((side, side), method))
        for layer in np.moveaxis(layers.astype(np.float32), -1, 0)
    ]
    return np.stack(resized, axis=-1)


Pictures = UInt8[np.ndarray, "n h w 3"]
# Least overlap of neighbouring squares, as a share of the side.
_OVERLAP = 0.25


class Tiles:
    """Overlapping squares of one side that cover pictures of one size.

    A picture smaller than a square is padded with its last row or column.
    """

    def __init__(self, height: int, width: int, side: int):
        """Divides pictures (height, width) into squares of `side` pixels."""
        self._size, self._side = (height, width), side
        self._tops, self._lefts = (_starts(n, side) for n in self._size)

    def __len__(self) -> int:
        return len(self._tops) * len(self._lefts)

    def statement(self, factor: int) -> str:
        """Returns a line for the user about the enlargement by `factor`."""
        height, width = self._size
        squares = wording.counted(len(self), "square")
        return (
            f"{width} x {height} px, enlarged to {width * factor} x {height * factor} "
            f"in {squares} of {self._side} x {self._side}"
        )

    def cut(self, pictures: Pictures) -> Iterator[Pictures]:
        """Yields each square of all pictures, from left to right and top to bottom."""
        pad = [(0, max(0, self._side - n)) for n in self._size]
        pictures = np.pad(pictures, ((0, 0), *pad, (0, 0)), mode="edge")
        for top in self._tops:
            rows = pictures[:, top : top + self._side]
            for left in self._lefts:
                yield rows[:, :, left : left + self._side]

    def join(self, squares: UInt8[np.ndarray, "k s s 3"]) -> np.ndarray:
        """Returns one picture from its squares, enlarged by a whole factor.

        Where squares overlap, their weights grow with the distance from their borders.
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
    """Returns evenly spaced starts along an axis; the last square ends with it."""
    step = side - math.ceil(_OVERLAP * side)
    count = 1 + max(0, math.ceil((length - side) / max(1, step)))
    return [int(start) for start in np.linspace(0, max(0, length - side), count)]
