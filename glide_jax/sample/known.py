"""The known part of an inpainting at the resolution of each stage."""

from __future__ import annotations

import numpy as np

from glide_jax import errors
from glide_jax.diffusion import inpainting
from glide_jax.sample import images as images_lib


def base_masks(
    images: np.ndarray, masks: np.ndarray, count: int, base_px: int
) -> np.ndarray:
    """Masks (N, base_px, base_px) float32 of `count` square pictures (N, H, H, 3).

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
    if masks.shape[1] == base_px:
        return masks
    return np.stack([images_lib.reduce_mask(mask, base_px) for mask in masks])


def conditions(
    images: images_lib.PixelBatch, masks: np.ndarray, image_px: int
) -> dict[str, np.ndarray]:
    """A stage's inpaint_image and inpaint_mask at its own resolution.

    Args:
        images: Source pictures of any one square size.
        masks: `base_masks`; enlarged by nearest neighbour, so that both stages agree
            on what is known.
        image_px: The stage's resolution.
    """
    mask = inpainting.resize_mask(masks[..., None], image_px // masks.shape[1])
    picture = images_lib.from_pixels(images_lib.resize(images, image_px))
    return {"inpaint_image": picture, "inpaint_mask": np.asarray(mask)}
