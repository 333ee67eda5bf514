"""Metadata of a picture file, however long or damaged, hides none of its pixels."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import ImageCms

from glide_jax.sample import image_io
from tests.data import pictures

LONG = b"a" * (3 << 20)  # Pillow takes 1 MB


def with_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    return pictures.insert_chunks(pictures.encode(pictures.RGB), *chunks)


def with_damaged_text() -> bytes:
    whole = with_chunks((b"tEXt", b"title\0some text"))
    return whole.replace(b"some text", b"same text")


def with_segments(*segments: tuple[int, bytes]) -> bytes:
    content = pictures.encode(pictures.RGB, "JPEG", quality=95)
    parts = [
        struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
        for marker, data in segments
    ]
    return content[:2] + b"".join(parts) + content[2:]


def with_comments() -> bytes:
    content = pictures.encode(pictures.GRAY, "GIF")
    at = content.index(b",", 13 + 768)
    comment = b"!\xfe" + (b"\xff" + b"c" * 255) * 8000 + b"\0"
    return content[:at] + comment + content[at:]


INFLATED = b"\0\0" + zlib.compress(LONG)
PADDED = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + LONG
BURDENED = {
    "PNG, text": lambda: with_chunks((b"tEXt", b"title\0" + LONG)),
    "PNG, packed text": lambda: with_chunks((b"zTXt", b"title" + INFLATED)),
    "PNG, packed UTF-8": lambda: with_chunks(
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LONG))
    ),
    "PNG, 30 MB in many texts": lambda: with_chunks(
        *[(b"zTXt", b"title" + INFLATED)] * 30
    ),
    "PNG, unknown packing": lambda: with_chunks((b"zTXt", b"title\0\7text")),
    "PNG, profile of 3 MB": lambda: with_chunks(
        (b"iCCP", b"p\0\0" + zlib.compress(PADDED))
    ),
    "PNG, profile of 12 MB": lambda: with_chunks(
        (b"iCCP", b"p\0\0" + zlib.compress(LONG * 4))
    ),
    "PNG, damaged text": with_damaged_text,
    "PNG, without its end": lambda: pictures.encode(pictures.RGB)[:-6],
    "PNG, animation out of order": lambda: with_chunks(
        (b"acTL", struct.pack(">2I", 2, 0)), (b"fcTL", bytes([0, 0, 0, 7] * 7))
    ),
    "JPEG, many segments": lambda: with_segments(
        *[(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"x" * 65000)] * 200
    ),
    "JPEG, marks of scans in a comment": lambda: with_segments(
        (0xFE, b"\xff\xda" * 500)
    ),
    "JPEG, short and strange segments": lambda: with_segments(
        (0xE0, b"JFIF\0"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xE2, b"MPF\0MM\0*\0\0\0\x08\0\1\xb0\0\0\7\0\0"),
        (0xED, b"Photoshop 3.0\0" + b"8BIM" * 20),
        (0xEE, b"Adobe"),
    ),
    "WebP, texts and a profile": lambda: pictures.encode(
        pictures.RGB, "WEBP", lossless=True, xmp=LONG, icc_profile=LONG
    ),
    "GIF, comments": with_comments,
}


@pytest.mark.parametrize("name", BURDENED)
def test_metadata_does_not_keep_good_pixels_from_being_read(name, tmp_path):
    content = BURDENED[name]()
    if name.startswith("JPEG"):
        want = pictures.decode(pictures.encode(pictures.RGB, "JPEG", quality=95))
    else:
        want = np.asarray(
            pictures.GRAY.convert("RGB") if name.startswith("GIF") else pictures.RGB
        )
    np.testing.assert_array_equal(pictures.decode(content), want)
    (tmp_path / "picture").write_bytes(content)
    np.testing.assert_array_equal(image_io.read_image(tmp_path / "picture"), want)
