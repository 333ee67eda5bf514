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
    """The unknown parts of pictures, each cut out as a square.

    Attributes:
      squares: one per picture.
      images: the pixels of each square, uint8 (side, side, 3).
      masks: the pixels of each square that the models know, bool (side, side).
    """

    def __init__(
        self,
        pictures: image_io.PixelBatch,
        masks: Masks,
        model_px: int,
        feather_px: int,
    ):
        """Cuts the squares.

        Args:
          pictures: uint8 (N, H, W, 3).
          masks: (N, H, W), from `checked_masks`.
          model_px: side of the finished squares.
          feather_px: width of the soft edge, in pixels of the pictures.

        Raises:
          UserError: another number of masks than of pictures.
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
        """Returns the pictures with the drawn squares; see `region.paste`."""
        parts = zip(self._pictures, self._masks, self.squares, drawn, strict=True)
        return np.stack([region.paste(*part, self._feather_px) for part in parts])

    def record(self) -> list[dict[str, int]]:
        """Returns the squares as JSON values; a single one if all are equal."""
        found = self.squares[:1] if len(set(self.squares)) == 1 else self.squares
        return [square._asdict() for square in found]


def statement(
    picture: image_io.Pixels,
    mask: image_io.Mask,
    base_px: int,
    model_px: int,
    feather_px: int,
) -> str:
    """Returns a line for the user about the square that will be drawn.

    Raises:
      UserError: as `checked_masks`.
    """
    height, width, _ = picture.shape
    (known,) = checked_masks(mask[None], (height, width), base_px, feather_px)
    square = region.around_hole(known, model_px, feather_px)
    return region.statement((height, width), square, model_px)


def checked_masks(
    masks: np.ndarray, size: tuple[int, ...], base_px: int, feather_px: int
) -> Masks:
    """Returns masks (N, H, W) of the pictures' size, True = known.

    Args:
      masks: 0 and 1, of the pictures' size, or, if those are square, of the base
        model's.
      size: height and width of the pictures.
      base_px: side of the base model's pictures.
      feather_px: width of the soft edge.

    Raises:
      UserError: masks of another size or range of values, a mask that is 0 or 1
        everywhere, or a soft edge as wide as the known part.
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
    for number, mask in enumerate(known):
        if mask.min() == mask.max():
            extent = "nothing" if mask.min() else "everything"
            raise UserError(
                f"mask {number} is {mask.min():d} everywhere, so {extent} would be"
                " repainted; give 1 where the picture is kept and 0 elsewhere"
            )
    if known.shape[1:] != size:
        resized = [image_io.resize_mask(mask, height) for mask in known]
        known = np.stack(resized).astype(bool)
    for number, mask in enumerate(known if feather_px else ()):
        farthest = region.distance(mask).max()
        if feather_px >= farthest:
            raise UserError(
                f"feather_px={feather_px}, but the known pixels of mask {number} are "
                f"at most {farthest} px from what is repainted; give at most "
                f"{farthest - 1}"
            )
    return known


def check_pictures(images: np.ndarray, count: int) -> None:
    """Raises UserError unless `images` are `count` uint8 pictures of one size."""
    if images.ndim != 4 or images.shape[0] != count or images.shape[-1] != 3:
        raise UserError(
            f"images have shape {images.shape}; {count} prompts need ({count}, H, W, 3)"
        )
    if images.dtype != np.uint8:
        raise UserError(f"images are {images.dtype}; give uint8")


def conditions(
    images: Sequence[np.ndarray] | np.ndarray,
    masks: Sequence[np.ndarray] | np.ndarray,
    image_px: int,
    feather_px: int = 0,
) -> dict[str, Any]:
    """Returns inpaint_image and inpaint_mask of a stage, at its resolution.

    Args:
      images: source squares, each uint8 and of any size.
      masks: of the same sizes. Each stage resizes them itself, so the upsampler still
        pins pixels that the larger pixels of the base model have to leave unknown.
      image_px: the stage's resolution.
      feather_px: width of the mask's soft edge, in pixels of the source squares; if
        above 0, at least one pixel of the stage.
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
