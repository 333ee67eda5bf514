"""Pictures in and out: pixels, PNG files, grids, and the record beside them."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError

import glide_jax
from glide_jax import errors, shapes

Pixels = UInt8[np.ndarray, "h w 3"]
PixelBatch = UInt8[np.ndarray, "b h w 3"]
Mask = Float[np.ndarray, "h w"]
# Of another size than the argument it is made from.
ResizedBatch = UInt8[np.ndarray, "b h_out w_out 3"]


def to_pixels(images: shapes.Image) -> PixelBatch:
    """[-1, 1] to uint8 by round((x + 1) * 127.5), as the released notebooks do."""
    scaled = np.round((np.asarray(images, np.float32) + 1) * 127.5)
    return np.clip(scaled, 0, 255).astype(np.uint8)


def from_pixels(pixels: PixelBatch) -> shapes.Image:
    """uint8 to float32 in [-1, 1]; `to_pixels` gives the same uint8 back."""
    return np.asarray(pixels, np.float32) / 127.5 - 1


def as_pixels(images: Any) -> np.ndarray:
    """One picture or several, PIL or arrays, as one array (N, H, W, 3).

    Arrays keep their dtype and are checked where they are used; PIL pictures become
    RGB, uint8.

    Raises:
        UserError: Pictures of several sizes.
    """
    if isinstance(images, Image.Image):
        images = [images]
    if not isinstance(images, np.ndarray):
        images = [_as_array(one) for one in images]
        if len({one.shape for one in images}) > 1:
            sizes = ", ".join(sorted({str(one.shape) for one in images}))
            raise errors.UserError(f"pictures have shapes {sizes}; give one size")
        images = np.stack(images)
    return images[None] if images.ndim == 3 else images


def as_masks(masks: Any) -> np.ndarray:
    """One mask or several, PIL or arrays, as one array (N, H, W), 1 = known.

    A PIL mask is known where it is lighter than mid grey. (A mask file of a painting
    tool is the other way round: `read_mask` turns it.)
    """
    if isinstance(masks, Image.Image):
        masks = [masks]
    if not isinstance(masks, np.ndarray):
        masks = [
            np.asarray(one.convert("L")) >= 128
            if isinstance(one, Image.Image)
            else np.asarray(one)
            for one in masks
        ]
        masks = np.stack(masks)
    return masks[None] if masks.ndim == 2 else masks


def _as_array(image: Any) -> np.ndarray:
    if isinstance(image, Image.Image):
        image = image.convert("RGB")
    return np.asarray(image)


def resize(pixels: PixelBatch, image_px: int) -> ResizedBatch:
    """Each picture at (image_px, image_px), PIL bicubic; unchanged if it is already."""
    size = (image_px, image_px)
    bicubic = Image.Resampling.BICUBIC
    return np.stack(
        [np.asarray(Image.fromarray(p).resize(size, bicubic)) for p in pixels]
    )


def resize_mask(mask: Mask, mask_px: int) -> Float[np.ndarray, "h_out w_out"]:
    """A mask (1 = known) at (mask_px, mask_px).

    Made smaller, it is 1 only where all it covers is known, so no pixel that was to be
    repainted is pinned at the lower resolution; made larger, it takes the nearest.
    """
    repaint = Image.fromarray((mask < 0.5).astype(np.float32))
    share = repaint.resize((mask_px, mask_px), Image.Resampling.BOX)
    # A share below one source pixel in a million is rounding.
    return (np.asarray(share) < 1e-6).astype(np.float32)


def make_grid(pixels: PixelBatch, columns: int) -> UInt8[np.ndarray, "h_out w_out 3"]:
    """Pictures in rows from left to right with a 2 px white seam."""
    count, height, width, _ = pixels.shape
    rows = -(-count // columns)
    seam = 2
    shape = (rows * (height + seam) - seam, columns * (width + seam) - seam, 3)
    grid = np.full(shape, 255, np.uint8)
    for i, picture in enumerate(pixels):
        y, x = (i // columns) * (height + seam), (i % columns) * (width + seam)
        grid[y : y + height, x : x + width] = picture
    return grid


def read_image(path: str | pathlib.Path) -> Pixels:
    """An image file as RGB; transparent parts come out white.

    Raises:
        UserError: No such file, or not a picture.
    """
    picture = _open(path).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))


def read_mask(path: str | pathlib.Path) -> Mask:
    """A mask file as 1 = known, 0 = to repaint.

    Painting tools mark what is to be repainted, white or transparent; this is the one
    place that turns it round. A file with any transparent pixel is read by its
    transparency alone, so that a picture with a hole rubbed out is a mask.

    Raises:
        UserError: No such file, or not a picture.
    """
    picture = _open(path).convert("RGBA")
    alpha = np.asarray(picture.getchannel("A"))
    if (alpha < 128).any():
        return (alpha >= 128).astype(np.float32)
    return (np.asarray(picture.convert("L")) < 128).astype(np.float32)


def write_png(path: pathlib.Path, pixels: Pixels) -> None:
    """Writes one picture.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        Image.fromarray(pixels).save(path, format="PNG")
    except OSError as error:
        raise errors.UserError(f"cannot write {path}: {error.strerror}") from error


def write_sidecar(path: pathlib.Path, record: dict[str, Any]) -> None:
    """Writes `record` as JSON, with the versions that repeating it would need.

    Raises:
        UserError: The file cannot be written.
    """
    packages = ("jax", "jaxlib", "flax", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    versions |= {
        "glide_jax": glide_jax.__version__,
        "python": platform.python_version(),
    }
    text = json.dumps({**record, "versions": versions}, indent=2, ensure_ascii=False)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise errors.UserError(f"cannot write {path}: {error.strerror}") from error


def write_all(
    folder: pathlib.Path,
    pictures: Sequence[tuple[str, np.ndarray]],
    record: dict[str, Any],
) -> None:
    """Writes named PNG files and then samples.json into `folder`, made if absent.

    Pictures are uint8 (H, W, 3), each of its own size.

    Raises:
        UserError: The folder or a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.UserError(f"cannot make {folder}: {error.strerror}") from error
    for name, pixels in pictures:
        write_png(folder / name, pixels)
    write_sidecar(folder / "samples.json", record)


def _open(path: str | pathlib.Path) -> Image.Image:
    try:
        picture = Image.open(path)
        picture.load()
    except UnidentifiedImageError as error:
        raise errors.UserError(
            f"{path} is not a picture that can be read; give a PNG or JPEG file"
        ) from error
    except (OSError, Image.DecompressionBombError) as error:
        raise errors.UserError(
            f"{path} cannot be read ({error}); give an existing PNG or JPEG file"
        ) from error
    return picture
