"""Pictures like no others, and copies of them as the web makes them."""

from __future__ import annotations

import io
import pathlib

import numpy as np
from PIL import Image


def texture(number: int, width: int = 96, height: int = 80) -> Image.Image:
    """A smooth picture with some detail, a function of its number."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8))
    fine = rng.integers(-12, 13, (height, width, 3))
    image = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(np.clip(image + fine, 0, 255).astype(np.uint8))


def png(image: Image.Image, level: int = 6) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=level)
    return stream.getvalue()


def jpeg(image: Image.Image, quality: int = 60) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def resized(image: Image.Image) -> Image.Image:
    size = [round(0.7 * side) for side in image.size]
    return image.resize(size, Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float = 0.02) -> Image.Image:
    """Without a share of the width and of the height, half of it at each side."""
    width, height = image.size
    x, y = share * width / 2, share * height / 2
    return image.crop((round(x), round(y), round(width - x), round(height - y)))


def write(folder: pathlib.Path, name: str, picture: bytes, caption: str) -> None:
    """Adds a pair to a folder; the suffix of the name is that of the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(picture)
    (folder / name).with_suffix(".txt").write_text(caption)
