"""Reads and writes pictures: pixels, PNG files, grids, and their record."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, PngImagePlugin

import glide_jax
from glide_jax import array_types
from glide_jax.data import picture_files
from glide_jax.errors import UserError
from glide_jax.runtime import files
from glide_jax.sample import mask_files

Pixels = UInt8[np.ndarray, "h w 3"]
PixelBatch = UInt8[np.ndarray, "b h w 3"]
Mask = Float[np.ndarray, "h w"]
# Of another size than the argument.
ResizedBatch = UInt8[np.ndarray, "b h_out w_out 3"]


def to_pixels(images: array_types.Image) -> PixelBatch:
    """Returns uint8 of images in [-1, 1]: round((x + 1) * 127.5), as released."""
    scaled = np.round((np.asarray(images, np.float32) + 1) * 127.5)
    return np.clip(scaled, 0, 255).astype(np.uint8)


def from_pixels(pixels: PixelBatch) -> array_types.Image:
    """Returns float32 in [-1, 1] of uint8; `to_pixels` is the inverse."""
    return np.asarray(pixels, np.float32) / 127.5 - 1


def as_pixels(images: Any) -> np.ndarray:
    """Returns one or several pictures, PIL or arrays, as one array (N, H, W, 3).

    Arrays keep their dtype, which their users check. PIL pictures are converted like
    picture files: upright, sRGB, uint8, white where they are transparent.

    Raises:
      UserError: no picture, something else, or pictures of several sizes.
    """

    def rgb(picture: Image.Image) -> np.ndarray:
        return np.asarray(picture_files.from_pillow(picture, "images"))

    return _stacked(images, rgb, "images", 3)


def as_masks(masks: Any) -> np.ndarray:
    """Returns one or several masks, PIL or arrays, as one array (N, H, W), 1 = known.

    A PIL mask is known where it is lighter than mid grey. Mask files are the other way
    round; `read_mask` inverts them.

    Raises:
      UserError: no mask, something else, masks of several sizes, or a PIL mask that
        is transparent somewhere or has one value everywhere.
    """
    return _stacked(masks, _known, "masks", 2)


def _known(mask: Image.Image) -> np.ndarray:
    """Returns the known pixels of a PIL mask, bool (H, W)."""
    is_transparent = np.asarray(mask.convert("RGBA"))[..., 3] < 255
    if mask.has_transparency_data and is_transparent.any():
        raise UserError(
            "masks: a picture has transparent pixels, which may be known or unknown;"
            " give mode 'L', or read the file by read_mask"
        )
    levels = np.asarray(picture_files.from_pillow(mask, "masks").convert("L"))
    known = levels >= 128
    if known.all() or not known.any():
        raise UserError(
            f"masks: a picture has levels {levels.min()} to {levels.max()}; give known"
            " pixels of at least 128 and repainted ones below"
        )
    return known


def _stacked(
    given: Any, convert: Callable[[Image.Image], np.ndarray], name: str, ndim: int
) -> np.ndarray:
    if isinstance(given, Image.Image):
        given = [given]
    if not isinstance(given, np.ndarray):
        if not isinstance(given, list | tuple) or not given:
            raise UserError(
                f"{name} are {given!r:.60}; give PIL pictures or arrays, at least one"
            )
        found = [
            convert(one) if isinstance(one, Image.Image) else np.asarray(one)
            for one in given
        ]
        if len({one.shape for one in found}) > 1:
            sizes = ", ".join(sorted({str(one.shape) for one in found}))
            raise UserError(f"{name} have shapes {sizes}; give one size")
        given = np.stack(found)
    given = given[None] if given.ndim == ndim else given
    if given.ndim != ndim + 1 or not given.size:
        sides = "(N, H, W, 3) or (H, W, 3)" if ndim == 3 else "(N, H, W) or (H, W)"
        raise UserError(f"{name} have shape {given.shape}; give {sides}")
    return given


def resize(pixels: Iterable[np.ndarray], image_px: int) -> ResizedBatch:
    """Returns pictures (h, w, 3), uint8, at (image_px, image_px), by PIL's bicubic."""
    size = (image_px, image_px)
    bicubic = Image.Resampling.BICUBIC
    return np.stack(
        [np.asarray(Image.fromarray(p).resize(size, bicubic)) for p in pixels]
    )


def resize_mask(
    mask: Mask | Bool[np.ndarray, "h w"], mask_px: int
) -> Float[np.ndarray, "h_out w_out"]:
    """Returns a mask (1 = known) at (mask_px, mask_px).

    A pixel of a smaller mask is known only if all pixels that it covers are, so that no
    pixel to repaint is pinned. A larger mask has the nearest values.
    """
    repaint = Image.fromarray((mask < 0.5).astype(np.float32))
    share = repaint.resize((mask_px, mask_px), Image.Resampling.BOX)
    # A share below one source pixel in a million is rounding.
    return (np.asarray(share) < 1e-6).astype(np.float32)


def make_grid(pixels: PixelBatch, columns: int) -> UInt8[np.ndarray, "h_out w_out 3"]:
    """Returns pictures in rows from left to right, 2 px of white between them."""
    count, height, width, _ = pixels.shape
    rows = -(-count // columns)
    seam = 2
    shape = (rows * (height + seam) - seam, columns * (width + seam) - seam, 3)
    grid = np.full(shape, 255, np.uint8)
    for i, picture in enumerate(pixels):
        y, x = (i // columns) * (height + seam), (i % columns) * (width + seam)
        grid[y : y + height, x : x + width] = picture
    return grid


def read_image(path: str | pathlib.Path, name: str = "") -> Pixels:
    """Reads a picture file as upright sRGB; transparent parts become white.

    `name` is the flag of the file, for errors.

    Raises:
      UserError: no such file, or not a picture.
    """
    return np.asarray(picture_files.read(path, name))


def read_mask(path: str | pathlib.Path, reading: str | None = None) -> Mask:
    """Reads a mask file for `Glide.inpaint`, 1 = known; see `mask_files.read`."""
    return mask_files.read(path, reading).known


def write_png(
    path: pathlib.Path, pixels: Pixels, text: Mapping[str, str] | None = None
) -> None:
    """Writes one picture, with texts by keyword (tEXt, or iTXt beyond Latin-1).

    Raises:
      UserError: the file cannot be written.
    """
    chunks = PngImagePlugin.PngInfo()
    for keyword, value in (text or {}).items():
        chunks.add_text(keyword, value)
    try:
        Image.fromarray(pixels).save(path, format="PNG", pnginfo=chunks)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def picture_texts(record: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Returns the texts of each PNG file of samples.json, by file name and keyword.

    "prompt" is the prompt, a blend as JSON. "glide_jax" is a JSON object with version,
    verb, index, settings, and digests of the bundles, which draw the picture again.
    """
    bundles = record.get("bundles", {})
    shared = {
        "version": glide_jax.__version__,
        "verb": record.get("verb"),
        "bundles": {name: found["digest"] for name, found in bundles.items()},
        "settings": record.get("settings"),
    }
    found = {}
    for entry in record.get("images", []):
        prompt = entry["prompt"]
        if not isinstance(prompt, str):
            prompt = json.dumps(prompt, ensure_ascii=False)
        own = json.dumps({**shared, "index": entry["index"]})
        for name in ("file", "base_file"):
            if name in entry:
                found[entry[name]] = {"prompt": prompt, "glide_jax": own}
    return found


def versions() -> dict[str, str]:
    """Returns the versions of the packages on which a picture depends."""
    packages = ("jax", "jaxlib", "flax", "numpy")
    return {
        **{name: importlib.metadata.version(name) for name in packages},
        "glide_jax": glide_jax.__version__,
        "python": platform.python_version(),
    }


def write_sidecar(path: pathlib.Path, record: dict[str, Any]) -> None:
    """Writes `record` as JSON, with `versions`.

    Raises:
      UserError: the file cannot be written.
    """
    text = json.dumps({**record, "versions": versions()}, indent=2, ensure_ascii=False)
    try:
        files.write_text(path, text + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def write_all(
    folder: pathlib.Path,
    pictures: Sequence[tuple[str, np.ndarray]],
    record: dict[str, Any],
) -> None:
    """Writes named PNG files and then samples.json; creates the folder if absent.

    Pictures are uint8 (H, W, 3), of any sizes. Those in `record` have `picture_texts`.

    Raises:
      UserError: the folder or a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}") from error
    texts = picture_texts(record)
    for name, pixels in pictures:
        write_png(folder / name, pixels, texts.get(name))
    write_sidecar(folder / "samples.json", record)
