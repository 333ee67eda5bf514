"""Checks, crops and pastes back the known part of an inpainting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from glide_jax.diffusion import inpainting
from glide_jax.errors import UserError
from glide_jax.sample import image_io, region

Masks = Bool[np.ndarray, "n h w"]


class Holes:
    """What is unknown in pictures, each cut out in a square of its own.

    Attributes:
      squares: Of each picture.
      images: Of each picture its square, uint8 (side, side, 3).
      masks: Of each square what the models are to know, bool (side, side).
    """

    def __init__(
        self,
        pictures: image_io.PixelBatch,
        masks: Masks,
        model_px: int,
        feather_px: int,
    ):
        """Raises UserError for another number of masks than of pictures.

        Args:
          pictures: uint8 (N, H, W, 3).
          masks: `checked_masks`, (N, H, W).
          model_px: Side of the finished squares.
          feather_px: Width of the soft edge, in pixels of the pictures.
        """
        if len(masks) != len(pictures):
            raise UserError(
                f"masks have shape {masks.shape}, and there are {len(pictures)} "
                "pictures to draw; give one mask for each, or one for all"
            )
        self._pictures, self._masks, self._feather_px = pictures, masks, feather_px
        self.squares = [
            region.around_hole(mask, model_px, feather_px) for mask in masks
        ]
        self.images = [
            region.cut(picture, square)
            for picture, square in zip(pictures, self.squares, strict=True)
        ]
        self.masks = [
            region.cut_mask(mask, square, model_px, feather_px)
            for mask, square in zip(masks, self.squares, strict=True)
        ]

    def paste(self, drawn: image_io.PixelBatch) -> image_io.ResizedBatch:
        """The whole pictures with the squares as they were drawn, see region.paste."""
        parts = zip(self._pictures, self._masks, self.squares, drawn, strict=True)
        return np.stack([region.paste(*part, self._feather_px) for part in parts])

    def record(self) -> list[dict[str, int]]:
        """The squares as JSON values; a single one if all pictures have the same."""
        found = self.squares[:1] if len(set(self.squares)) == 1 else self.squares
        return [square._asdict() for square in found]


def statement(
    picture: image_io.Pixels,
    mask: image_io.Mask,
    base_px: int,
    model_px: int,
    feather_px: int,
) -> str:
    """Which square of a picture will be drawn, for a user to read.

    Raises:
      UserError: As `checked_masks`.
    """
    height, width, _ = picture.shape
    (known,) = checked_masks(mask[None], (height, width), base_px, feather_px)
    square = region.around_hole(known, model_px, feather_px)
    return region.statement((height, width), square, model_px)


def checked_masks(
    masks: np.ndarray, size: tuple[int, int], base_px: int, feather_px: int
) -> Masks:
    """Masks (N, H, W) of the pictures' size as booleans, True = known.

    Args:
      masks: 0 and 1, of the pictures' size, or, where those are square, of the base
          model's.
      size: Height and width of the pictures.
      base_px: Side of the base model's pictures.
      feather_px: Width of the soft edge.

    Raises:
      UserError: Masks of another size or range of values; one that is 0 or 1
          everywhere; a soft edge as wide as all that is known.
    """
    height, width = size
    shapes = {size, (base_px, base_px)} if height == width else {size}
    if masks.shape[1:] not in shapes:
        or_base = f" or {base_px} x {base_px} like the base model"
        raise UserError(
            f"masks have shape {masks.shape}; a mask must be {width} x {height} pixels "
            f"like its picture{or_base if height == width else ''}"
        )
    if masks.dtype != bool and not ((masks == 0) | (masks == 1)).all():
        raise UserError(
            f"masks range from {masks.min():g} to {masks.max():g}; they must be 1 "
            "where known and 0 elsewhere (feather_px makes soft edges)"
        )
    known = masks.astype(bool)
    _check_divided(known)
    if known.shape[1:] != size:
        resized = [image_io.resize_mask(mask, height) for mask in known]
        known = np.stack(resized).astype(bool)
    if feather_px:
        for number, mask in enumerate(known):
            _check_feather(number, mask, feather_px)
    return known


def _check_divided(masks: Masks) -> None:
    """Raises UserError unless every mask has both 0 and 1."""
    for number, mask in enumerate(masks):
        if mask.min() == mask.max():
            extent = "nothing" if mask.min() else "everything"
            raise UserError(
                f"mask {number} is {mask.min():d} everywhere, so {extent} would be"
                " repainted; give 1 where the picture is kept and 0 elsewhere"
            )


def _check_feather(number: int, mask: Bool[np.ndarray, "h w"], feather_px: int) -> None:
    """Raises UserError unless some pixel lies beyond the soft edge."""
    farthest = region.distance(mask).max()
    if feather_px >= farthest:
        raise UserError(
            f"feather_px={feather_px}, but no known pixel of mask {number} is further "
            f"than {farthest} px from what is repainted; give at most {farthest - 1}"
        )


def check_pictures(images: np.ndarray, count: int) -> None:
    """Raises UserError unless `images` are `count` uint8 pictures of one size."""
    if images.ndim != 4 or images.shape[0] != count or images.shape[-1] != 3:
        raise UserError(
            f"images have shape {images.shape}; {count} prompts need ({count}, H, W, 3)"
        )
    if images.dtype != np.uint8:
        raise UserError(f"images are {images.dtype}; they must be uint8")


def conditions(
    images: Sequence[np.ndarray] | np.ndarray,
    masks: Sequence[np.ndarray] | np.ndarray,
    image_px: int,
    feather_px: int = 0,
) -> dict[str, Any]:
    """A stage's inpaint_image and inpaint_mask at its own resolution.

    Args:
      images: Source squares, each uint8 and of any size.
      masks: Of the same sizes. Each stage resizes them itself: what the base model
          had to take for unknown, as its pixels are larger, the upsampler still pins.
      image_px: The stage's resolution.
      feather_px: Width of the mask's soft edge, in pixels of the source squares;
          at least one of the stage, where it is soft at all.
    """
    found = []
    for mask in masks:
        resized = image_io.resize_mask(mask, image_px)[None, ..., None]
        if feather_px:
            soft = math.ceil(feather_px * image_px / len(mask))
            resized = np.asarray(inpainting.feather(resized, soft), np.float32)
        found.append(resized)
    picture = image_io.from_pixels(image_io.resize(images, image_px))
    return {"inpaint_image": picture, "inpaint_mask": np.concatenate(found)}
