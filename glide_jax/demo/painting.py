"""Pictures to paint on, and what the paint means.

The editor shows a small picture enlarged by a whole factor, or a large one reduced, so
that it can be painted on. The picture itself stays as it is: only the paint is taken
from the editor, at the size of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from glide_jax.errors import UserError
from glide_jax.sample import cascade, inpaint_conditions, region

CANVAS_PX = 512
# Colour of the part that is repainted, in the explanation.
_PAINT = np.array([255, 60, 140], np.float32)
_SQUARE = np.array([60, 60, 208], np.uint8)


class Hole(NamedTuple):
    """A painted part of a picture.

    Attributes:
      known: bool (H, W), True = kept.
      statement: a line about it.
      shown: the picture with the part marked, uint8 (h, w, 3).
    """

    known: np.ndarray
    statement: str
    shown: np.ndarray


def on_canvas(picture: np.ndarray) -> np.ndarray:
    """Returns a picture at the size of the editor's canvas, uint8 (h, w, 3)."""
    height, width = _canvas_size(picture.shape)
    is_larger = height > picture.shape[0]
    method = Image.Resampling.NEAREST if is_larger else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize((width, height), method))


def editable(picture: np.ndarray) -> dict[str, Any]:
    """Returns the value of an editor that shows a picture without paint."""
    return {"background": on_canvas(picture), "layers": [], "composite": None}


def blank() -> dict[str, Any]:
    """Returns the value of an editor with a white canvas."""
    return editable(np.full((CANVAS_PX, CANVAS_PX, 3), 255, np.uint8))


def _canvas_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the height and width of a picture on the canvas."""
    longest = max(shape[:2])
    if longest <= CANVAS_PX:
        factor: float = CANVAS_PX // longest
    else:
        factor = CANVAS_PX / longest
    height, width = (max(1, round(side * factor)) for side in shape[:2])
    return height, width


def paint(value: Mapping[str, Any] | None, shape: tuple[int, ...]) -> np.ndarray:
    """Returns where an editor's layers are painted, bool (H, W) of a picture's shape.

    A pixel of the picture is painted if a quarter of its pixels on the canvas is.
    """
    height, width = shape[:2]
    painted = np.zeros((height, width), bool)
    for layer in (value or {}).get("layers") or []:
        alpha = Image.fromarray(np.ascontiguousarray(layer[..., 3] >= 128))
        share = alpha.convert("F").resize((width, height), Image.Resampling.BOX)
        painted |= np.asarray(share) >= 255 / 4
    return painted


def find_hole(
    picture: np.ndarray | None,
    value: Mapping[str, Any] | None,
    glide: cascade.Glide,
    feather_px: int = 0,
) -> Hole:
    """Returns the part of a picture to repaint.

    Args:
      picture: uint8 (H, W, 3), or None.
      value: what the editor has, with "layers" as uint8 (h, w, 4).
      glide: the models that repaint it.
      feather_px: width of the soft edge.

    Raises:
      UserError: no picture, or paint nowhere or everywhere.
    """
    if picture is None:
        raise UserError("there is no picture; upload one, or send one from another tab")
    painted = paint(value, picture.shape)
    if not painted.any():
        raise UserError("nothing is painted; paint over the part to repaint")
    if painted.all():
        raise UserError("all of the picture is painted; leave a part that is kept")
    known = ~painted
    line = inpaint_conditions.statement(
        *(picture, known.astype(np.float32)),
        *(glide.base_px, glide.image_px, feather_px),
    )
    square = region.around_hole(known, glide.image_px, feather_px)
    share = f"{painted.mean():.0%} of the picture is repainted, the rest is kept"
    return Hole(known, f"{share}; {line}", _shown(picture, painted, square))


def _shown(
    picture: np.ndarray, painted: np.ndarray, square: region.Square
) -> np.ndarray:
    """Returns the picture on the canvas, its paint tinted and its square outlined."""
    tinted = picture.astype(np.float32)
    tinted[painted] = 0.35 * tinted[painted] + 0.65 * _PAINT
    shown = on_canvas(tinted.astype(np.uint8)).copy()
    factor = shown.shape[0] / picture.shape[0]
    top, left, bottom, right = (
        round(factor * side)
        for side in (
            *(square.top, square.left),
            *(square.top + square.side, square.left + square.side),
        )
    )
    for first, last in ((top, top + 2), (bottom - 2, bottom)):
        shown[_cut(first, last), _cut(left, right)] = _SQUARE
    for first, last in ((left, left + 2), (right - 2, right)):
        shown[_cut(top, bottom), _cut(first, last)] = _SQUARE
    return shown


def _cut(first: int, last: int) -> slice:
    """Returns a slice without the part beyond the border of the picture."""
    return slice(max(0, first), max(0, last))


def sketched(
    picture: np.ndarray | None, value: Mapping[str, Any] | None, side: int
) -> np.ndarray:
    """Returns a picture with the paint of an editor on it, uint8 (H, W, 3).

    Args:
      picture: uint8 (H, W, 3), or None for a white one.
      value: what the editor has, with "layers" as uint8 (h, w, 4).
      side: of the white picture.

    Raises:
      UserError: neither a picture nor paint.
    """
    below = np.full((side, side, 3), 255, np.uint8) if picture is None else picture
    found = (value or {}).get("layers") or []
    layers = [Image.fromarray(layer) for layer in found if layer[..., 3].any()]
    if picture is None and not layers:
        raise UserError("there is no picture; paint a sketch, or upload a picture")
    result = Image.fromarray(below).convert("RGBA")
    for layer in layers:
        # Premultiplied, so that the edge of a stroke takes no colour from beyond it.
        small = layer.convert("RGBa").resize(result.size, Image.Resampling.BOX)
        result = Image.alpha_composite(result, small.convert("RGBA"))
    return np.asarray(result.convert("RGB"))
