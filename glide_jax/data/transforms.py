"""From an encoded picture to the float32 arrays the networks are trained on."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from glide_jax import errors
from glide_jax.config import validate
from glide_jax.data import schema

# What pictures on the web are. Pillow knows forty formats more, some of which hand the
# file to other programs (EPS to Ghostscript); none of these is ever tried.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# 8192 x 8192: a camera's 61 megapixels pass; 270 MB decoded.
MAX_PIXELS = 1 << 26
# Beyond this the middle square shows next to nothing of the picture, and a line of one
# pixel enlarged to the target size would take more memory than any photograph.
MAX_ASPECT = 32
# A progressive JPEG has about ten. libjpeg goes over all pixels in each, and a file of
# nothing but empty scans keeps it busy for hours (its own tools stop at 500).
MAX_SCANS = 100
# What Pillow raises on damaged or hostile files, across its formats.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    RuntimeError,
    struct.error,
    zlib.error,
)
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_ORIENTATION = 0x0112  # of EXIF 2.32, section 4.6.4
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _webp_size(content: bytes) -> tuple[int, int]:
    """Width and height of a WebP; (1, 1) of what is none.

    Pillow reserves the canvas before it tells the size. Layout: RFC 9649.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return 1, 1
    kind, body = content[12:16], content[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        width, height = body[4:7], body[7:10]
        return tuple(int.from_bytes(s, "little") + 1 for s in (width, height))
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return tuple(v & 0x3FFF for v in struct.unpack("<HH", body[6:10]))


def _check_size(width: int, height: int, key: str) -> None:
    """Raises BadRecordError for sizes that would cost too much, before decoding."""
    size = f"{width} x {height} pixels"
    if min(width, height) < 1:
        raise schema.BadRecordError("broken image", key, size)
    if width * height > MAX_PIXELS:
        raise schema.BadRecordError("decompression bomb", key, size)
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise schema.BadRecordError("narrow image", key, size)


def _check_scans(content: bytes, key: str) -> None:
    """Raises BadRecordError for a JPEG that asks to be decoded hundreds of times over.

    The mark of a scan cannot stand in coded data, only in a thumbnail or the like.
    """
    if content[:2] == b"\xff\xd8":
        scans = content.count(b"\xff\xda")
        if scans > MAX_SCANS:
            raise schema.BadRecordError("decompression bomb", key, f"{scans} scans")


def _turn_upright(image: Image.Image) -> Image.Image:
    """The picture as its camera was held; one with damaged EXIF as it is stored."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
        turn = _UPRIGHT.get(orientation)
    except _BROKEN:
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Eight-bit RGB; transparency over white, 16-bit gray scaled, CMYK converted."""
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit gray at 255 instead of scaling it.
        levels = np.clip(np.asarray(image, np.int64), 0, 65535)
        clear = image.info.get("transparency")
        image = Image.fromarray((levels // 257).astype(np.uint8))
        if isinstance(clear, int):
            opaque = np.where(levels == clear, 0, 255).astype(np.uint8)
            image.putalpha(Image.fromarray(opaque))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def decode(example: schema.Example) -> Image.Image:
    """The example's picture as upright 8-bit RGB; of an animation the first frame.

    Raises:
      BadRecordError: the bytes are not a whole picture of one of FORMATS ("broken
        image"), or one that is too large to decode ("decompression bomb") or too
        narrow to crop ("narrow image").
    """
    if isinstance(example.image, np.ndarray):
        return Image.fromarray(example.image)
    try:
        _check_scans(example.image, example.key)
        _check_size(*_webp_size(example.image), example.key)
        image = Image.open(io.BytesIO(example.image), formats=FORMATS)
        _check_size(*image.size, example.key)
        image.load()
        return _to_rgb(_turn_upright(image))
    except schema.BadRecordError:
        raise
    except _BOMB as fault:
        raise schema.BadRecordError("decompression bomb", example.key) from fault
    except _BROKEN as fault:
        detail = f"{type(fault).__name__}: {fault}".splitlines()[0]
        raise schema.BadRecordError("broken image", example.key, detail) from fault


def centre_crop(image: Image.Image, px: int) -> UInt8[np.ndarray, "h w 3"]:
    """The central square at (px, px) by guided-diffusion's rule.

    Halves by box means while the short side is at least twice the target, then resizes
    it to the target by bicubic, then crops the middle. A picture of the target size
    passes through unchanged.
    """
    while min(image.size) >= 2 * px:
        width, height = image.size
        image = image.resize((width // 2, height // 2), Image.Resampling.BOX)
    scale = px / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    top, left = (height - px) // 2, (width - px) // 2
    return np.asarray(image)[top : top + px, left : left + px]


def load_image(example: schema.Example, px: int) -> Float[np.ndarray, "h w 3"]:
    """The example's picture as float32 (px, px, 3) in [-1, 1].

    Raises:
      BadRecordError: see `decode`.
    """
    pixels = example.image
    if not isinstance(pixels, np.ndarray) or pixels.shape[:2] != (px, px):
        pixels = centre_crop(decode(example), px)
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def area_downsample(
    images: Float[np.ndarray, "*batch h w c"], px: int
) -> Float[np.ndarray, "*batch p p c"]:
    """The images at (px, px) by the mean of each block of pixels.

    Raises:
      UserError: the side is not a multiple of px.
    """
    *batch, height, width, channels = images.shape
    if px < 1 or height % px or width % px:
        raise errors.UserError(
            f"low_res_px={px} does not divide the picture's {height} x {width};"
            " use a divisor of model.image_px"
        )
    blocks = images.reshape(*batch, px, height // px, px, width // px, channels)
    return blocks.mean(axis=(-4, -2), dtype=np.float32)


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur by a kernel of three pixels, edges mirrored."""
    side = float(np.exp(-0.5 / sigma**2))
    weights = np.array([side, 1.0, side], np.float32) / np.float32(1.0 + 2.0 * side)
    for axis in (0, 1):
        pad = [(1, 1) if a == axis else (0, 0) for a in range(3)]
        mirrored = np.moveaxis(np.pad(image, pad, mode="reflect"), axis, 0)
        taps = (mirrored[i : len(mirrored) - 2 + i] * weights[i] for i in range(3))
        image = np.moveaxis(sum(taps), 0, axis)
    return np.ascontiguousarray(image)


def corrupt_low_res(
    low_res: Float[np.ndarray, "h w c"],
    kind: str,
    strength: float,
    rng: np.random.Generator | None = None,
) -> Float[np.ndarray, "h w c"]:
    """The upsampler's condition made a little worse, float32 in [-1, 1].

    Args:
      low_res: a clean picture in [-1, 1].
      kind: "none"; "blur", three pixels wide (unCLIP's augmentation); "noise",
        Gaussian; "quantise", to 8 bits as the sampler does (half to even).
      strength: blur's sigma in low_res pixels, or noise's std in [-1, 1] units.
      rng: needed by "noise" only.

    Raises:
      UserError: the kind is unknown, or the strength is not positive.
    """
    check_corruption(kind, strength)
    if kind == "blur":
        return _blur(low_res, strength)
    if kind == "noise":
        noise = rng.standard_normal(low_res.shape, np.float32)
        return np.clip(low_res + np.float32(strength) * noise, -1.0, 1.0)
    if kind == "quantise":
        return np.round((low_res + 1) * np.float32(127.5)) / np.float32(127.5) - 1
    return low_res


def check_corruption(kind: str, strength: float) -> None:
    """Raises UserError unless the kind is known and its strength makes sense."""
    if kind not in validate.CORRUPTIONS:
        raise errors.UserError(
            f"data.low_res_corruption={kind!r} is unknown;"
            f" use one of {', '.join(validate.CORRUPTIONS)}"
        )
    if kind in ("blur", "noise") and not strength > 0:
        raise errors.UserError(
            f"data.low_res_corruption_strength={strength} must be positive for"
            f" {kind}; set data.low_res_corruption=none to switch it off"
        )
