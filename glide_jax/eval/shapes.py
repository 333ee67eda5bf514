"""Reads colour and shape back out of one-object pictures of the embedded set.

The reader must also judge a model's own samples, whose edges are soft, whose colours
are tinted and whose flat areas are noisy. So it decides nothing by a single pixel: the
background is the median of the border, the colour the median of the object's inside,
and the shape is the template whose soft overlap with the object's mask is best once
both have the same centre of mass.
"""

from __future__ import annotations

import numpy as np

from glide_jax import errors
from glide_jax.data import shapes_world

# Mean RGB distance below which the picture is taken to show no object at all.
MIN_CONTRAST = 40.0
# Shapes are compared at no more than this side; more pixels cost time, not accuracy.
MATCH_PX = 32
# Template diameters as multiples of the one with the mask's own area.
SCALES = (0.9, 1.0, 1.1)
# Area of each shape as a fraction of its bounding square, and how far its centre of
# mass lies below the square's centre, as a fraction of the side.
_AREA = {
    "circle": np.pi / 4,
    "square": 1.0,
    "triangle": 0.5,
    "cross": 1.0 - (1.0 - shapes_world.CROSS_ARM) ** 2,
}
_MASS_BELOW_CENTRE = {"circle": 0.0, "square": 0.0, "triangle": 1 / 6, "cross": 0.0}
_NAMES = tuple(shapes_world.COLOURS)
_PALETTE = np.array(list(shapes_world.COLOURS.values()), np.float32)


def _background(image: np.ndarray) -> np.ndarray:
    """Median colour of the outermost pixels, (3,)."""
    border = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    return np.median(border, axis=0)


def _shrink(mask: np.ndarray) -> np.ndarray:
    """The mask by area means at no more than `MATCH_PX` a side."""
    while mask.shape[0] > MATCH_PX and mask.shape[0] % 2 == 0:
        half = mask.shape[0] // 2
        mask = mask.reshape(half, 2, half, 2).mean((1, 3))
    return mask


def _match(mask: np.ndarray, shape: str) -> float:
    """Best soft intersection over union of the mask with templates of one shape."""
    px = mask.shape[0]
    mass = mask.sum()
    middles = (np.arange(px) + 0.5) / px
    x = float(mask.sum(0) @ middles / mass)
    y = float(mask.sum(1) @ middles / mass)
    best = 0.0
    for scale in SCALES:
        diameter = scale * float(np.sqrt(mass / _AREA[shape])) / px
        centre = (x, y - diameter * _MASS_BELOW_CENTRE[shape])
        template = shapes_world.coverage(shape, centre, diameter, px)
        overlap = np.minimum(mask, template).sum()
        best = max(best, float(overlap / np.maximum(mask, template).sum()))
    return best


def read_scene(image: np.ndarray) -> tuple[str, str]:
    """The colour and shape of the one object, or ("none", "none") without an object.

    Args:
      image: uint8 (H, H, 3), at least 16 pixels a side.
    """
    pixels = image.astype(np.float32)
    background = _background(pixels)
    distance = np.linalg.norm(pixels - background, axis=-1)
    # The brightest few pixels set the scale; a high quantile ignores lone outliers.
    peak = float(np.quantile(distance, 0.97))
    if peak < MIN_CONTRAST:
        return "none", "none"
    inside = distance >= 0.75 * peak
    colour = np.median(pixels[inside], axis=0)
    nearest = int(np.argmin(np.linalg.norm(_PALETTE - colour, axis=-1)))
    direction = colour - background
    # Bright pixels that point opposite ways (noise, two colours) average out.
    if np.linalg.norm(direction) < MIN_CONTRAST:
        return "none", "none"
    mask = (pixels - background) @ direction / (direction @ direction)
    # Pixel noise of a few per cent must not add up to mass far from the object.
    mask = _shrink(np.clip((mask - 0.15) / 0.7, 0.0, 1.0))
    scores = {shape: _match(mask, shape) for shape in shapes_world.SHAPES}
    return _NAMES[nearest], max(scores, key=scores.__getitem__)


def score(images: np.ndarray, captions: list[str]) -> dict[str, float | int]:
    """How often the pictures show the colour and the shape their captions name.

    Args:
      images: uint8 (N, H, H, 3).
      captions: N captions of the quickstart world.

    Returns:
      {"colour": share right, "shape": share right, "n": N}; shares in [0, 1].

    Raises:
      UserError: no pictures, or a caption of another world.
    """
    if not captions:
        raise errors.UserError("no pictures to judge; draw at least one")
    colours = shapes = 0
    for image, text in zip(images, captions, strict=True):
        truth = shapes_world.parse_caption(text)
        colour, shape = read_scene(image)
        colours += colour == truth.colour
        shapes += shape == truth.shape
    n = len(captions)
    return {"colour": colours / n, "shape": shapes / n, "n": n}
