"""Draws the random regions that are erased when a model is trained for inpainting.

GLIDE states only "random regions". This is a mixture of rectangles and brush strokes
(as in Palette), borders and halves (outpainting), and, rarely, the whole picture, so
that the model keeps its ability to sample without known pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

# Probabilities of _KINDS, in their order (ours; the paper states none).
KIND_PROBS = (0.4, 0.35, 0.2, 0.05)


def _boxes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Returns one to four unknown rectangles, sides 0.1 to 0.6 of the picture's."""
    known = np.ones((height, width), np.float32)
    for _ in range(rng.integers(1, 5)):
        shares = rng.uniform(0.1, 0.6, 2)
        h, w = max(1, round(height * shares[0])), max(1, round(width * shares[1]))
        top = rng.integers(0, height - h + 1)
        left = rng.integers(0, width - w + 1)
        known[top : top + h, left : left + w] = 0.0
    return known


def _strokes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Returns one to four unknown brush strokes with several bends and round ends."""
    canvas = Image.new("L", (width, height), 255)
    brush = ImageDraw.Draw(canvas)
    side = min(height, width)
    for _ in range(rng.integers(1, 5)):
        points = rng.uniform(0, 1, 2) * (width, height)
        thickness = max(1, round(side * rng.uniform(0.06, 0.2)))
        for _ in range(rng.integers(2, 7)):
            angle, length = rng.uniform(0, 2 * np.pi), side * rng.uniform(0.1, 0.4)
            step = length * np.array([np.cos(angle), np.sin(angle)])
            end = np.clip(points + step, 0, (width - 1, height - 1))
            brush.line([*points, *end], fill=0, width=thickness)
            x, y = end
            r = thickness / 2
            brush.ellipse([x - r, y - r, x + r, y + r], fill=0)
            points = end
    return (np.asarray(canvas) > 127).astype(np.float32)


def _borders(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Returns one unknown side (0.25 to 0.75), or a frame around a known centre."""
    known = np.ones((height, width), np.float32)
    if rng.random() < 0.5:
        share = rng.uniform(0.25, 0.75)
        upright = np.rot90(known, k := int(rng.integers(4)))
        upright[: max(1, round(len(upright) * share))] = 0.0
        return np.ascontiguousarray(np.rot90(upright, -k))
    margins = rng.uniform(0.1, 0.35, 4) * (height, height, width, width)
    top, bottom, left, right = (max(1, round(margin)) for margin in margins)
    frame = np.zeros_like(known)
    frame[top : height - bottom, left : width - right] = 1.0
    return frame


def _everything(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Returns a mask without known pixels."""
    del rng
    return np.zeros((height, width), np.float32)


_KINDS: tuple[Callable[[np.random.Generator, int, int], np.ndarray], ...] = (
    _boxes,
    _strokes,
    _borders,
    _everything,
)


def random_mask(
    rng: np.random.Generator, height: int, width: int
) -> Float[np.ndarray, "h w 1"]:
    """Draws an `inpaint_mask`: float32 (height, width, 1), 1 = known, 0 = to fill."""
    kind = int(rng.choice(len(_KINDS), p=KIND_PROBS))
    return _KINDS[kind](rng, height, width)[..., None]
