"""The known part of an inpainting at the resolution of each stage."""

from __future__ import annotations

import numpy as np

from glide_jax import errors
from glide_jax.sample import images as images_lib


def checked_masks(
    images: np.ndarray, masks: np.ndarray, count: int, base_px: int
) -> np.ndarray:
    """The masks as float32, found to fit `count` square pictures (N, H, H, 3).

    They stay (N, H, H) or (N, base_px, base_px), as given.

    Raises:
        UserError: Pictures or masks of another number, size or range of values.
    """
    if images.ndim != 4 or images.shape[0] != count or images.shape[-1] != 3:
        raise errors.UserError(
            f"images have shape {images.shape}; {count} prompts need ({count}, H, W, 3)"
        )
    height, width = images.shape[1:3]
    if height != width:
        raise errors.UserError(
            f"images are {width} x {height} pixels; inpainting needs square ones: crop "
            "them"
        )
    if masks.shape not in {(count, base_px, base_px), (count, height, width)}:
        raise errors.UserError(
            f"masks have shape {masks.shape}; they must be one a picture, {width} x "
            f"{height} like the images or {base_px} x {base_px} like the base model"
        )
    masks = masks.astype(np.float32)
    if images.dtype != np.uint8 or not np.isin(masks, (0, 1)).all():
        raise errors.UserError(
            f"images are {images.dtype} and masks range to {masks.max():g}; images "
            "must be uint8, masks 1 where known and 0 elsewhere"
        )
    return masks


def conditions(
    images: images_lib.PixelBatch, masks: np.ndarray, image_px: int
) -> dict[str, np.ndarray]:
    """A stage's inpaint_image and inpaint_mask at its own resolution.

    Args:
        images: Source pictures of any one square size.
        masks: `checked_masks`. Each stage resizes them itself: what the base model
            had to take for unknown, as its pixels are larger, the upsampler still pins.
        image_px: The stage's resolution.
    """
    mask = np.stack([images_lib.resize_mask(mask, image_px) for mask in masks])
    picture = images_lib.from_pixels(images_lib.resize(images, image_px))
    return {"inpaint_image": picture, "inpaint_mask": mask[..., None]}
