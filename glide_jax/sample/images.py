"""Pictures in and out: pixels, PNG files, grids, and the record beside them."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

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
    RGB, uint8, white where they are transparent.

    Raises:
        UserError: No picture, something else, or pictures of several sizes.
    """
    return _stacked(images, _rgb, "images", 3)


def as_masks(masks: Any) -> np.ndarray:
    """One mask or several, PIL or arrays, as one array (N, H, W), 1 = known.

    A PIL mask is known where it is lighter than mid grey. (A mask file of a painting
    tool is the other way round: `read_mask` turns it.)

    Raises:
        UserError: No mask, something else, or masks of several sizes.
    """
    return _stacked(
        masks, lambda mask: np.asarray(mask.convert("L")) >= 128, "masks", 2
    )


def _stacked(
    given: Any, convert: Callable[[Image.Image], np.ndarray], name: str, ndim: int
) -> np.ndarray:
    if isinstance(given, Image.Image):
        given = [given]
    if not isinstance(given, np.ndarray):
        if not isinstance(given, list | tuple) or not given:
            raise errors.UserError(
                f"{name} are {given!r:.60}; give PIL pictures or arrays, at least one"
            )
        found = [
            convert(one) if isinstance(one, Image.Image) else np.asarray(one)
            for one in given
        ]
        if len({one.shape for one in found}) > 1:
            sizes = ", ".join(sorted({str(one.shape) for one in found}))
            raise errors.UserError(f"{name} have shapes {sizes}; give one size")
        given = np.stack(found)
    given = given[None] if given.ndim == ndim else given
    if given.ndim != ndim + 1 or not given.size:
        sides = "(N, H, W, 3) or (H, W, 3)" if ndim == 3 else "(N, H, W) or (H, W)"
        raise errors.UserError(f"{name} have shape {given.shape}; give {sides}")
    return given


def _rgb(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8, upright, white where it is transparent."""
    picture = ImageOps.exif_transpose(_eight_bit(picture)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))


def _eight_bit(picture: Image.Image) -> Image.Image:
    """PIL clips 16-bit greys at 255 where it should scale them."""
    if not picture.mode.startswith("I;16"):
        return picture
    return Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))


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
    return _rgb(_open(path))


def read_mask(path: str | pathlib.Path) -> Mask:
    """A mask file as 1 = known, 0 = to repaint.

    Painting tools mark what is to be repainted, white or transparent; this is the one
    place that turns it round. A file with any transparent pixel is read by its
    transparency alone, so that a picture with a hole rubbed out is a mask.

    Raises:
        UserError: No such file, or not a picture.
    """
    picture = ImageOps.exif_transpose(_eight_bit(_open(path))).convert("RGBA")
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
