"""The known part of an inpainting at the resolution of each stage."""

from __future__ import annotations

import numpy as np

from glide_jax import errors
from glide_jax.diffusion import inpainting
from glide_jax.sample import images as images_lib


def checked_masks(
    images: np.ndarray, masks: np.ndarray, count: int, base_px: int
) -> np.ndarray:
    """The masks as float32, found to fit `count` square pictures (N, H, H, 3).

    They stay (N, H, H) or (N, base_px, base_px), as given.

    Raises:
        UserError: Pictures or masks of another number, size or range of values; a mask
            that is 0 or 1 everywhere.
    """
    check_square(images, count)
    height, width = images.shape[1:3]
    if masks.shape not in {(count, base_px, base_px), (count, height, width)}:
        raise errors.UserError(
            f"masks have shape {masks.shape}; they must be one a picture, {width} x "
            f"{height} like the images or {base_px} x {base_px} like the base model"
        )
    masks = masks.astype(np.float32)
    if not np.isin(masks, (0, 1)).all():
        raise errors.UserError(
            f"masks range from {masks.min():g} to {masks.max():g}; they must be 1 "
            "where known and 0 elsewhere (feather_px makes soft edges)"
        )
    _check_divided(masks)
    return masks


def _check_divided(masks: np.ndarray) -> None:
    """Raises UserError unless every mask (N, H, W) has both 0 and 1."""
    for number, mask in enumerate(masks):
        if mask.min() == mask.max():
            extent = "nothing" if mask.min() else "everything"
            raise errors.UserError(
                f"mask {number} is {mask.min():g} everywhere, so {extent} would be"
                " repainted; give 1 where the picture is kept and 0 elsewhere"
            )


def check_square(images: np.ndarray, count: int) -> None:
    """Raises UserError unless `images` are `count` square uint8 pictures."""
    if images.ndim != 4 or images.shape[0] != count or images.shape[-1] != 3:
        raise errors.UserError(
            f"images have shape {images.shape}; {count} prompts need ({count}, H, W, 3)"
        )
    height, width = images.shape[1:3]
    if height != width:
        raise errors.UserError(
            f"images are {width} x {height} pixels; the models need square ones: crop "
            "them"
        )
    if images.dtype != np.uint8:
        raise errors.UserError(f"images are {images.dtype}; they must be uint8")


def conditions(
    images: images_lib.PixelBatch,
    masks: np.ndarray,
    image_px: int,
    feather_px: int = 0,
) -> dict[str, np.ndarray]:
    """A stage's inpaint_image and inpaint_mask at its own resolution.

    Args:
        images: Source pictures of any one square size.
        masks: `checked_masks`. Each stage resizes them itself: what the base model
            had to take for unknown, as its pixels are larger, the upsampler still pins.
        image_px: The stage's resolution.
        feather_px: Width of the mask's soft edge, in this stage's pixels.
    """
    resized = np.stack([images_lib.resize_mask(mask, image_px) for mask in masks])
    mask = resized[..., None]
    if feather_px:
        mask = np.asarray(inpainting.feather(mask, feather_px), np.float32)
    picture = images_lib.from_pixels(images_lib.resize(images, image_px))
    return {"inpaint_image": picture, "inpaint_mask": mask}
