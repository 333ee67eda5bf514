"""Decodes picture files to upright 8-bit sRGB, for all parts of the package."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from glide_jax.data import colour_profiles, picture_metadata, retrying_reads, schema
from glide_jax.errors import UserError
from glide_jax.runtime import paths

# The formats that Pillow may try. It supports forty more, some by other programs, as
# EPS by Ghostscript. PPM includes PBM, PGM and PNM.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM")
# The suffixes of these formats, compared in lower case.
SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jfif", ".jpe"),
        *(".png", ".webp", ".gif", ".bmp"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    }
)
# 8192 x 8192 pixels, 270 MB decoded; more than a camera's 61 megapixels.
MAX_PIXELS = 1 << 26
# Beyond this ratio the central square shows little of the picture, and enlarging the
# short side to the target size may take too much memory.
MAX_ASPECT = 32
# A progressive JPEG has about ten scans. libjpeg processes all pixels in each: a file
# of empty scans takes hours (its own tools stop at 500).
MAX_SCANS = 100
# Pillow reads some PPM files in a Python loop, a microsecond per value: 16 s for 4096 x
# 4096. It searches the whole text again after each comment.
_MAX_SLOW_PIXELS = 1 << 24
_MAX_COMMENTS = 100
# Exceptions of Pillow for damaged or malicious files.
BROKEN = (
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


def decode(content: bytes, key: str) -> Image.Image:
    """Decodes a file to upright 8-bit sRGB, mode "RGB", or "RGBA" with transparency.

    An animation gives its first frame.

    Raises:
      BadRecordError: the file is not a complete picture of one of FORMATS ("broken
        image"), is too large to decode ("decompression bomb") or too narrow to crop
        ("narrow image").
    """
    return as_srgb(load(content, key), key)


def load(content: bytes, key: str, *, max_pixels: int | None = None) -> Image.Image:
    """Decodes a file to an upright picture in its stored mode.

    Args:
      content: the bytes of the file.
      key: its name, for errors.
      max_pixels: a larger picture is a decompression bomb; None: MAX_PIXELS.

    Raises:
      BadRecordError: as `decode`.
    """
    if max_pixels is None:
        max_pixels = MAX_PIXELS
    try:
        content, metadata = picture_metadata.split(content)
        _check_jpeg_scans(content, key)
        _check_size(*_webp_size(content), key, max_pixels)
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        _check_size(*image.size, key, max_pixels)
        _check_ppm(content, image, key)
        if image.mode == "F":
            raise schema.BadRecordError("broken image", key, "floating-point pixels")
        image.load()
        image.info.update(metadata)
        _scale_transparency(content, image)
        # Only EXIF determines the orientation, as in browsers.
        image.info.pop("xmp", None)
        return _turn_upright(image)
    except schema.BadRecordError:
        raise
    except _BOMB as fault:
        raise schema.BadRecordError("decompression bomb", key) from fault
    except UnidentifiedImageError as fault:
        detail = f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
        raise schema.BadRecordError("broken image", key, detail) from fault
    except BROKEN as fault:
        raise schema.BadRecordError("broken image", key, _detail(fault)) from fault


def as_srgb(image: Image.Image, key: str) -> Image.Image:
    """Converts the result of `load` to 8-bit sRGB, mode "RGB" or "RGBA".

    Applies a colour profile in `image.info`, and drops the lower byte of 16-bit levels.

    Raises:
      BadRecordError: Pillow cannot convert it ("broken image"), e.g. a short palette.
    """
    try:
        return _as_srgb(image, key)
    except BROKEN as fault:
        raise schema.BadRecordError("broken image", key, _detail(fault)) from fault


def _as_srgb(image: Image.Image, key: str) -> Image.Image:
    alpha, profile = None, None
    if "icc_profile" in image.info:
        # An empty profile marks a damaged one.
        profile = image.info["icc_profile"] or b""
    image = _eight_bit(image)
    is_gray = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    if is_gray:
        image = image.convert("L")
    elif image.mode != "CMYK":
        image = image.convert("RGB")
    image = colour_profiles.to_srgb(image, profile, key)
    if alpha is not None:
        image.putalpha(alpha)
    return image


def on_white(image: Image.Image) -> Image.Image:
    """Composites an "RGB" or "RGBA" picture on white; mode "RGB"."""
    if image.mode == "RGB":
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def read(path: str | os.PathLike[str], name: str = "") -> Image.Image:
    """Reads the file of a flag as upright 8-bit sRGB on white, mode "RGB".

    Raises:
      UserError: as `load_file`.
    """
    image, label = load_file(path, name), _label(path, name)
    with bad_record_as_user_error(label):
        return on_white(as_srgb(image, label))


def load_file(path: str | os.PathLike[str], name: str = "") -> Image.Image:
    """Reads the file of a flag as an upright picture in its stored mode.

    Args:
      path: the file; `~` is expanded.
      name: the flag for messages, e.g. "--image"; "" without one.

    Raises:
      UserError: the file is missing, or `decode` cannot read it.
    """
    label = _label(path, name)
    try:
        descriptor, stamp = retrying_reads.open_file(
            paths.local_path(path, name or "path")
        )
        try:
            if stamp.size > retrying_reads.MAX_IMAGE_BYTES:
                raise UserError(
                    f"{label} has {stamp.size} bytes, more than"
                    f" {retrying_reads.MAX_IMAGE_BYTES}; save a smaller file"
                )
            content = retrying_reads.read_at(descriptor, 0, stamp.size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(
            f"{label} cannot be read ({error.strerror}); give an existing picture file"
        ) from error
    with bad_record_as_user_error(label), warnings.catch_warnings():
        # Pillow warns of sizes, which are checked here, and of damaged EXIF.
        warnings.simplefilter("ignore")
        return load(content, label)


@contextlib.contextmanager
def bad_record_as_user_error(label: str) -> Iterator[None]:
    """Converts a BadRecordError of the block to a UserError about a flag.

    Args:
      label: the flag and its file, e.g. "--image=photo.png".
    """
    try:
        yield
    except schema.BadRecordError as bad:
        raise UserError(
            f"{label} cannot be used: {bad.reason}; give another file"
        ) from bad


def from_pillow(image: Image.Image, name: str) -> Image.Image:
    """Converts a Pillow picture to upright 8-bit sRGB on white, as `read` does a file.

    Raises:
      UserError: its file is damaged, or its mode has no known range. Mode "I" is
        accepted only from a file, where its levels have 16 bits.
    """
    if image.mode == "F" or (image.mode == "I" and image.format is None):
        raise UserError(
            f"{name}: a picture has mode {image.mode!r}, with an unknown range; use"
            " mode 'L' (0 to 255) or 'I;16' (0 to 65535)"
        )
    try:
        image.load()
        image = image.copy()
        # As in `load`, only EXIF determines the orientation.
        image.info.pop("xmp", None)
        return on_white(_as_srgb(_turn_upright(image), name))
    except (*BROKEN, *_BOMB) as fault:
        raise UserError(
            f"{name}: a picture cannot be read ({_detail(fault)}); give another"
        ) from fault


def _label(path: str | os.PathLike[str], name: str) -> str:
    return f"{name}={path}" if name else str(path)


def _detail(fault: BaseException) -> str:
    """Formats an exception in one line, by its type if it has no message."""
    text = (str(fault).splitlines() or [type(fault).__name__])[0]
    return f"the file is damaged: {text}"


def _webp_size(content: bytes) -> tuple[int, int]:
    """Returns width and height of a WebP file; (1, 1) for another format.

    Pillow allocates the canvas before it exposes the size. Layout: RFC 9649.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return 1, 1
    kind, body = content[12:16], content[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        width, height = body[4:7], body[7:10]
        return (
            int.from_bytes(width, "little") + 1,
            int.from_bytes(height, "little") + 1,
        )
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", body[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _check_size(width: int, height: int, key: str, max_pixels: int) -> None:
    """Raises BadRecordError for sizes that are too expensive to decode."""
    size = f"{width} x {height} pixels"
    if min(width, height) < 1:
        raise schema.BadRecordError("broken image", key, size)
    if width * height > max_pixels:
        raise schema.BadRecordError("decompression bomb", key, size)
    if max(width, height) > MAX_ASPECT * min(width, height):
        limit = f"{size}, more than {MAX_ASPECT} to 1"
        raise schema.BadRecordError("narrow image", key, limit)


def _check_jpeg_scans(content: bytes, key: str) -> None:
    """Raises BadRecordError for a JPEG with too many scans.

    The marker of a scan cannot occur in coded data, only in e.g. a thumbnail.
    """
    if content[:2] == b"\xff\xd8":
        scans = content.count(b"\xff\xda")
        if scans > MAX_SCANS:
            raise schema.BadRecordError("decompression bomb", key, f"{scans} scans")


def _check_ppm(content: bytes, image: Image.Image, key: str) -> None:
    """Raises BadRecordError for a PPM that Pillow reads too slowly."""
    tiles: Any = getattr(image, "tile", None)  # of ImageFile, which has no stub for it
    if image.format != "PPM" or not tiles[0][0].startswith("ppm"):
        return
    width, height = image.size
    if width * height > _MAX_SLOW_PIXELS:
        detail = f"{width} x {height} pixels as text, or of an uncommon depth"
        raise schema.BadRecordError("decompression bomb", key, detail)
    if tiles[0][0] == "ppm_plain":
        comments = content.count(b"#")
        if comments > _MAX_COMMENTS:
            detail = f"{comments} comments"
            raise schema.BadRecordError("decompression bomb", key, detail)


def _turn_upright(image: Image.Image) -> Image.Image:
    """Applies the EXIF orientation; ignores damaged EXIF."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
        turn = _UPRIGHT.get(orientation or 1)
    except BROKEN:
        turn = None
    return image if turn is None else image.transpose(turn)


def _scale_transparency(content: bytes, image: Image.Image) -> None:
    """Scales the transparent colour of a PNG to 8 bits, like its pixels.

    Pillow keeps it at the bit depth of the file, and converts pixels of fewer than 8
    bits and colours of 16 bits to 8 bits. Layout: PNG specification, sections 11.2.2
    and 11.3.2.1.
    """
    clear = image.info.get("transparency")
    if image.format != "PNG" or clear is None:
        return
    bits = content[24]
    if isinstance(clear, tuple) and bits == 16:
        image.info["transparency"] = tuple(level >> 8 for level in clear)
    elif image.mode == "L" and isinstance(clear, int) and bits < 8:
        image.info["transparency"] = clear * 255 // ((1 << bits) - 1)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Converts a picture to 8-bit levels; gray ones may become "LA"."""
    if not image.mode.startswith("I"):
        return image
    # Pillow would clip 16-bit gray at 255. It reads the upper byte of 16-bit colours,
    # and this does the same for gray.
    levels = np.clip(np.asarray(image, np.int64), 0, 65535)
    gray = Image.fromarray((levels >> 8).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        opaque = np.where(levels == clear, 0, 255).astype(np.uint8)
        gray.putalpha(Image.fromarray(opaque))
    return gray
