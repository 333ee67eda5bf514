"""Reads colour, shape and ground from one-object pictures of the embedded data set.

It must also read a model's samples, whose edges are soft, whose colours are tinted and
whose flat areas are noisy, so no decision depends on a single pixel: the background is
the median of the border, the colour is the median of the object's inside, and the shape
is the template with the largest soft overlap with the object's mask, at the same centre
of mass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from glide_jax.data import shapes_world
from glide_jax.errors import UserError

# Mean RGB distance below which the picture counts as showing no object.
MIN_CONTRAST = 40.0
# Shapes are compared at no more than this side; more pixels cost time, not accuracy.
MATCH_PX = 32
# Template diameters as multiples of the one with the mask's own area.
SCALES = (0.9, 1.0, 1.1)
# Area of each shape as a fraction of its bounding square, and the offset of its centre
# of mass below the square's centre, as a fraction of the side.
_AREA = {
    "circle": np.pi / 4,
    "square": 1.0,
    "triangle": 0.5,
    "cross": 1.0 - (1.0 - shapes_world.CROSS_ARM) ** 2,
}
_MASS_BELOW_CENTRE = {"circle": 0.0, "square": 0.0, "triangle": 1 / 6, "cross": 0.0}


class SeenScene(NamedTuple):
    """The content of a picture in the captions' words; "none" without an object."""

    colour: str
    shape: str
    background: str


class SeenObject(NamedTuple):
    """An object of a picture.

    Attributes:
      colour, shape: its words.
      centre: (x, y) of its bounding square, in fractions of the picture's side.
      diameter: side of the bounding square, in fractions of the picture's side.
    """

    colour: str
    shape: str
    centre: tuple[float, float]
    diameter: float


def background_of(image: np.ndarray) -> np.ndarray:
    """Returns the median colour of the outermost pixels, (3,)."""
    border = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    return np.median(border, axis=0)


def _shrink(mask: np.ndarray) -> np.ndarray:
    """Returns the mask averaged to at most `MATCH_PX` a side."""
    while mask.shape[0] > MATCH_PX and mask.shape[0] % 2 == 0:
        half = mask.shape[0] // 2
        mask = mask.reshape(half, 2, half, 2).mean((1, 3))
    return mask


def _placed(mask: np.ndarray, shape: str) -> tuple[tuple[float, float], float]:
    """Returns the centre and diameter of the shape with the mask's mass."""
    px = mask.shape[0]
    mass = mask.sum()
    middles = (np.arange(px) + 0.5) / px
    x = float(mask.sum(0) @ middles / mass)
    y = float(mask.sum(1) @ middles / mass)
    diameter = float(np.sqrt(mass / _AREA[shape])) / px
    return (x, y - diameter * _MASS_BELOW_CENTRE[shape]), diameter


def _match(mask: np.ndarray, shape: str) -> float:
    """Returns the best soft intersection over union of the mask with one shape."""
    (x, y), diameter = _placed(mask, shape)
    best = 0.0
    for scale in SCALES:
        # The centre of mass stays.
        below = (scale - 1.0) * diameter * _MASS_BELOW_CENTRE[shape]
        template = shapes_world.coverage(
            shape, (x, y - below), scale * diameter, mask.shape[0]
        )
        overlap = np.minimum(mask, template).sum()
        best = max(best, float(overlap / np.maximum(mask, template).sum()))
    return best


def read_object(pixels: np.ndarray, background: np.ndarray) -> SeenObject | None:
    """Returns the object of a picture with one object; None if it shows none.

    Args:
      pixels: float32 (H, H, 3), in [0, 255].
      background: colour of the ground, (3,).
    """
    distance = np.linalg.norm(pixels - background, axis=-1)
    # The brightest few pixels set the scale; a high quantile ignores lone outliers.
    peak = float(np.quantile(distance, 0.97))
    if peak < MIN_CONTRAST:
        return None
    colour = np.median(pixels[distance >= 0.75 * peak], axis=0)
    direction = colour - background
    # Pixels with opposite differences (noise, two colours) average out.
    if np.linalg.norm(direction) < MIN_CONTRAST:
        return None
    mask = (pixels - background) @ direction / (direction @ direction)
    # Removes pixel noise of a few per cent, which would add mass far from the object.
    mask = _shrink(np.clip((mask - 0.15) / 0.7, 0.0, 1.0))
    shape = max(shapes_world.SHAPES, key=lambda name: _match(mask, name))
    return SeenObject(
        nearest(colour, shapes_world.COLOURS), shape, *_placed(mask, shape)
    )


def read_scene(image: np.ndarray) -> SeenScene:
    """Returns the object's colour and shape, and the nearest ground.

    Args:
      image: uint8 (H, H, 3), at least 16 pixels a side.
    """
    pixels = image.astype(np.float32)
    background = background_of(pixels)
    ground = nearest(background, shapes_world.BACKGROUNDS)
    seen = read_object(pixels, background)
    if seen is None:
        return SeenScene("none", "none", ground)
    return SeenScene(seen.colour, seen.shape, ground)


def nearest(
    value: np.ndarray, names: Mapping[str, tuple[int, ...] | tuple[float, ...]]
) -> str:
    """Returns the name of the nearest value, e.g. of an RGB colour (3,)."""
    return min(names, key=lambda name: np.linalg.norm(names[name] - value))


def score(images: np.ndarray, captions: list[str]) -> dict[str, float | int]:
    """Returns how often pictures show the colour, shape and ground of their captions.

    Args:
      images: uint8 (N, H, H, 3).
      captions: N captions of the quickstart world.

    Returns:
      {"colour", "shape", "background": shares that are right, in [0, 1]; "n": N}.

    Raises:
      UserError: There are no pictures, or a caption is not of the quickstart world.
    """
    if not captions:
        raise UserError("no pictures are given; draw at least one")
    right = dict.fromkeys(SeenScene._fields, 0)
    for image, text in zip(images, captions, strict=True):
        truth, seen = shapes_world.parse_caption(text), read_scene(image)
        for word in right:
            right[word] += getattr(seen, word) == getattr(truth, word)
    n = len(captions)
    return {**{word: count / n for word, count in right.items()}, "n": n}
