"""Converts pictures to the float32 arrays that models are trained on."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from glide_jax.config import choices
from glide_jax.data import picture_cache, picture_files, schema
from glide_jax.errors import UserError


def decode(example: schema.Example) -> Image.Image:
    """Decodes the example's picture to upright 8-bit sRGB on white.

    Raises:
      BadRecordError: see `picture_files.decode`.
    """
    if isinstance(example.image, np.ndarray):
        return Image.fromarray(example.image)
    return picture_files.on_white(picture_files.decode(example.image, example.key))


def shrink(image: Image.Image, px: int) -> Image.Image:
    """Resizes the whole picture to a short side of px, as `centre_crop` does."""
    while min(image.size) >= 2 * px:
        width, height = image.size
        image = image.resize((width // 2, height // 2), Image.Resampling.BOX)
    scale = px / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def centre_crop(image: Image.Image, px: int) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the central square (px, px, 3), uint8, as guided-diffusion crops it.

    Halves the picture by box means while the short side is at least 2 px, resizes the
    short side to px by bicubic interpolation, and crops the centre. A picture of the
    target size is unchanged.
    """
    image = shrink(image, px)
    width, height = image.size
    top, left = (height - px) // 2, (width - px) // 2
    return np.asarray(image)[top : top + px, left : left + px]


def load_image(
    example: schema.Example, px: int, cache: picture_cache.PictureCache | None = None
) -> Float[np.ndarray, "h w 3"]:
    """Loads the example's picture as float32 (px, px, 3) in [-1, 1].

    Args:
      example: contains an encoded file or pixels.
      px: the side, pixels.
      cache: of this size, for encoded files; None: no cache.

    Raises:
      BadRecordError: see `decode`.
    """

    def make() -> UInt8[np.ndarray, "h w 3"]:
        return centre_crop(decode(example), px)

    pixels = example.image
    if not isinstance(pixels, np.ndarray):
        pixels = make() if cache is None else cache.load(pixels, make)
    elif pixels.shape[:2] != (px, px):
        pixels = make()
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def area_downsample(
    images: Float[np.ndarray, "*batch h w c"], px: int
) -> Float[np.ndarray, "*batch p p c"]:
    """Downsamples images to (px, px) by the mean of each block of pixels.

    Raises:
      UserError: the side is not a multiple of px.
    """
    *batch, height, width, channels = images.shape
    if px < 1 or height % px or width % px:
        raise UserError(
            f"low_res_px={px} does not divide the picture's {height} x {width};"
            " use a divisor of model.image_px"
        )
    blocks = images.reshape(*batch, px, height // px, px, width // px, channels)
    return blocks.mean(axis=(-4, -2), dtype=np.float32)


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs by a Gaussian kernel of three pixels with mirrored edges."""
    side = float(np.exp(-0.5 / sigma**2))
    weights = np.array([side, 1.0, side], np.float32) / np.float32(1.0 + 2.0 * side)
    for axis in (0, 1):
        pad = [(1, 1) if a == axis else (0, 0) for a in range(3)]
        mirrored = np.moveaxis(np.pad(image, pad, mode="reflect"), axis, 0)
        taps = (mirrored[i : len(mirrored) - 2 + i] * weights[i] for i in range(3))
        image = np.moveaxis(np.asarray(sum(taps)), 0, axis)
    return np.ascontiguousarray(image)


def corrupt_low_res(
    low_res: Float[np.ndarray, "h w c"],
    kind: str,
    strength: float,
    rng: np.random.Generator | None = None,
) -> Float[np.ndarray, "h w c"]:
    """Corrupts the upsampler's condition, float32 in [-1, 1].

    Args:
      low_res: a clean picture in [-1, 1].
      kind: "none"; "blur", three pixels wide (unCLIP's augmentation); "noise",
        Gaussian; "quantise", to 8 bits as the sampler does (half to even).
      strength: blur's sigma in low_res pixels, or noise's std in [-1, 1] units.
      rng: required by "noise" only.

    Raises:
      UserError: the kind is unknown, or the strength is not positive.
    """
    check_corruption(kind, strength)
    if kind == "blur":
        return _blur(low_res, strength)
    if kind == "noise":
        assert rng is not None
        noise = rng.standard_normal(low_res.shape, np.float32)
        return np.clip(low_res + np.float32(strength) * noise, -1.0, 1.0)
    if kind == "quantise":
        return np.round((low_res + 1) * np.float32(127.5)) / np.float32(127.5) - 1
    return low_res


def check_corruption(kind: str, strength: float) -> None:
    """Raises UserError unless the kind is known and its strength is valid."""
    if kind not in choices.CORRUPTIONS:
        raise UserError(
            f"data.low_res_corruption={kind!r} is unknown;"
            f" use one of {', '.join(choices.CORRUPTIONS)}"
        )
    if kind in ("blur", "noise") and not strength > 0:
        raise UserError(
            f"data.low_res_corruption_strength={strength} is not positive, as {kind}"
            " requires; use more than 0, or data.low_res_corruption=none"
        )
