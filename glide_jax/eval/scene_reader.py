"""Reads the objects of pictures of the full shapes world, and where they lie.

An object is a connected region that differs from the ground. Colour and shape of a
region are read as `eval.shapes_checker` reads a picture with one object.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from glide_jax.data import shapes_world
from glide_jax.eval import shapes_checker

# Of the distance between the ground and the most distant colour in the picture; the
# nearest colour of the world is at 0.42 of the most distant one.
MIN_DISTANCE = 0.35
# The object's strongest pixels; the smallest object of the world covers 2.4%.
PEAK_QUANTILE = 0.985
# Least area of an object, as a fraction of the picture: a third of the smallest one's.
MIN_AREA = 0.008
# Longest object, as a fraction of the side; a longer region is two that touch.
MAX_EXTENT = 0.6
# Distance of an object's soft edge from its region, as a fraction of the side.
EDGE = 1 / 16


class SeenObject(NamedTuple):
    """An object in the captions' words, and its centre (x, y) in [0, 1]."""

    colour: str
    shape: str
    size: str
    centre: tuple[float, float]


class SeenPicture(NamedTuple):
    """The objects of a picture and its ground, in the captions' words."""

    objects: tuple[SeenObject, ...]
    background: str


def place_of(seen: SeenObject) -> str:
    """Returns the nearest of `shapes_world.PLACES`."""
    return shapes_checker.nearest(np.array(seen.centre), shapes_world.PLACES)


def relation_of(first: SeenObject, other: SeenObject) -> str:
    """Returns the nearest of `shapes_world.RELATIONS`, e.g. "above"."""
    from_other = np.subtract(first.centre, other.centre)
    # The first object's centre if the middle of both were the picture's.
    return shapes_checker.nearest(0.5 + from_other / 2, shapes_world.RELATIONS)


def read_picture(image: np.ndarray) -> SeenPicture:
    """Returns the objects and the nearest ground.

    Args:
      image: uint8 (H, H, 3), at least 32 pixels a side.
    """
    pixels = image.astype(np.float32)
    background = shapes_checker.background_of(pixels)
    ground = shapes_checker.nearest(background, shapes_world.BACKGROUNDS)
    distance = np.linalg.norm(pixels - background, axis=-1)
    peak = float(np.quantile(distance, PEAK_QUANTILE))
    threshold = max(MIN_DISTANCE * peak, shapes_checker.MIN_CONTRAST)
    regions = _regions(np.where(distance >= threshold, distance, 0.0))
    if not regions:
        return SeenPicture((), ground)
    # Soft edges belong to the nearest region.
    distances = [ndimage.distance_transform_edt(~region) for region in regions]
    away = np.stack([np.asarray(distance) for distance in distances])
    owner = np.where(away.min(0) <= EDGE * len(pixels), away.argmin(0), -1)
    found = [_read(pixels, owner == i, background) for i in range(len(regions))]
    return SeenPicture(tuple(seen for seen in found if seen is not None), ground)


def _regions(strength: np.ndarray) -> list[np.ndarray]:
    """Returns the masks (px, px) of the objects; the strength is 0 at the ground."""
    px = len(strength)
    labels = np.zeros(strength.shape, np.int32)
    ndimage.label(strength > 0, output=labels)
    regions = []
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        extents = [part.stop - part.start for part in box]
        is_two = max(extents) > MAX_EXTENT * px
        region = labels == index
        regions += _halves(strength, region, box) if is_two else [region]
    return [region for region in regions if region.sum() >= MIN_AREA * px**2]


def _halves(
    strength: np.ndarray, region: np.ndarray, box: tuple[slice, slice]
) -> list[np.ndarray]:
    """Cuts a region across its longer side, where it is weakest near the middle."""
    axis = int(np.argmax([part.stop - part.start for part in box]))
    start, stop = box[axis].start, box[axis].stop
    quarter = (stop - start) // 4
    sums = np.where(region, strength, 0.0).sum(1 - axis)
    cut = start + quarter + int(np.argmin(sums[start + quarter : stop - quarter]))
    before = np.arange(len(region)) < cut
    before = before[:, None] if axis == 0 else before[None, :]
    return [region & before, region & ~before]


def _read(
    pixels: np.ndarray, is_own: np.ndarray, background: np.ndarray
) -> SeenObject | None:
    """Reads the object of a region with its edges, (px, px)."""
    px = len(pixels)
    rows, columns = ndimage.find_objects(is_own.astype(int))[0]
    side = max(rows.stop - rows.start, columns.stop - columns.start)
    # A square window, whose other pixels are ground.
    window = np.empty((side, side, 3), np.float32)
    window[:] = background
    inner = np.where(is_own[..., None], pixels, background)[rows, columns]
    window[: inner.shape[0], : inner.shape[1]] = inner
    seen = shapes_checker.read_object(window, background)
    if seen is None:
        return None
    centre = (np.array(seen.centre) * side + (columns.start, rows.start)) / px
    diameter = seen.diameter * side / px
    sizes = shapes_world.FULL_SIZES
    size = min(sizes, key=lambda name: abs(sizes[name] - diameter))
    return SeenObject(seen.colour, seen.shape, size, (centre[0], centre[1]))
