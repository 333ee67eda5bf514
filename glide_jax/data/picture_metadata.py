"""Removes metadata from picture files, so that damaged metadata cannot cost a picture.

Pillow rejects a PNG with large texts or a large colour profile, and a JPEG with a
segment that it does not understand, although libpng and libjpeg read their pixels.
"""

from __future__ import annotations

import zlib
from typing import Any

# The largest profiles, those of printing presses, have 3 MB.
MAX_PROFILE_BYTES = 4 << 20
_MAX_EXIF_BYTES = 1 << 20
_PNG = b"\x89PNG\r\n\x1a\n"
# ImageMagick stores the EXIF of a JPEG in this text, in hexadecimal.
_RAW_EXIF = b"Raw profile type exif\0"
_TRANSPARENCY, _END = b"tRNS", b"IEND"
# Prefixes of the JPEG segments that are kept, by marker, and the least size at which
# Pillow reads them. JFIF and Adobe define the colour coding of the pixels.
_JPEG_KEPT = {
    0xE0: (b"JFIF\0", 14),
    0xE1: (b"Exif\0\0", 14),
    0xE2: (b"ICC_PROFILE\0", 15),
    0xEE: (b"Adobe", 12),
}
_COMMENT = 0xFE


def split(content: bytes) -> tuple[bytes, dict[str, Any]]:
    """Splits a file into one without metadata, and the metadata that decoding needs.

    The metadata has the keys of Pillow's `Image.info`: "exif" and "icc_profile" of a
    PNG; other formats keep them in the file. A damaged profile is b"". A file that is
    not PNG or JPEG is unchanged, as is the rest of a file after damage, which the
    decoder reports.

    Raises:
      SyntaxError: the checksum of a pixel chunk of a PNG is wrong; Pillow does not
        check it.
    """
    if content.startswith(_PNG):
        return _split_png(content)
    if content.startswith(b"\xff\xd8\xff"):
        return _split_jpeg(content), {}
    return content, {}


def _split_png(content: bytes) -> tuple[bytes, dict[str, Any]]:
    view, found = memoryview(content), {}
    kept: list[bytes | memoryview] = [content[:8]]
    at = len(_PNG)
    while at + 8 <= len(content):
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        kind = bytes(view[at + 4 : at + 8])
        if end > len(content):
            break
        # An upper-case first letter marks critical chunks. Those of an animation are
        # ancillary, so its first frame remains.
        if kind[:1].isupper() or kind == _TRANSPARENCY:
            _check_sum(view[at + 4 : end], kind)
            kept.append(view[at:end])
        else:
            _read_ancillary(kind, bytes(view[at + 8 : end - 4]), found)
        at = end
        if kind == _END:
            break
    # Nothing, or a truncated chunk.
    kept.append(view[at:])
    return b"".join(kept), found


def _check_sum(chunk: memoryview, kind: bytes) -> None:
    """Raises SyntaxError if the last four bytes are not the checksum of the others."""
    if kind != _END and zlib.crc32(chunk[:-4]).to_bytes(4, "big") != chunk[-4:]:
        raise SyntaxError(f"the checksum of chunk {kind.decode('latin-1')} is wrong")


def _read_ancillary(kind: bytes, data: bytes, found: dict[str, Any]) -> None:
    if kind == b"iCCP":
        # Layout: name, zero byte, compression method (always 0), data.
        packed = data.partition(b"\0")[2][1:]
        found["icc_profile"] = _inflated(packed, MAX_PROFILE_BYTES)
    elif kind == b"eXIf":
        found["exif"] = b"Exif\0\0" + data
    elif kind in (b"tEXt", b"zTXt") and data.startswith(_RAW_EXIF):
        text = data[len(_RAW_EXIF) :]
        if kind == b"zTXt":
            text = _inflated(text[1:], _MAX_EXIF_BYTES)
        found.setdefault("exif", _from_hexadecimal(text))


def _inflated(packed: bytes, limit: int) -> bytes:
    """Decompresses data; b"" if it is damaged, truncated, or above the limit."""
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(packed, limit)
    except zlib.error:
        return b""
    return data if stream.eof else b""


def _from_hexadecimal(text: bytes) -> bytes:
    """Decodes ImageMagick's text: line end, name, length, hexadecimal digits."""
    digits = b"".join(text.split(b"\n")[3:])
    try:
        return bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return b""


def _split_jpeg(content: bytes) -> bytes:
    view, at = memoryview(content), 2
    kept: list[bytes | memoryview] = [content[:2]]
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if not (0xC0 <= marker <= _COMMENT) or 0xD0 <= marker <= 0xDA:
            # The compressed pixels start here, or the file is damaged.
            break
        end = at + 2 + int.from_bytes(view[at + 2 : at + 4], "big")
        if not _is_metadata(marker, bytes(view[at + 4 : min(end, at + 24)])):
            kept.append(view[at:end])
        at = end
    return b"".join([*kept, view[at:]])


def _is_metadata(marker: int, start: bytes) -> bool:
    """Whether a segment with this marker and start is metadata."""
    if not (0xE0 <= marker <= 0xEF or marker == _COMMENT):
        return False
    prefix, least = _JPEG_KEPT.get(marker, (b"", 0))
    return not prefix or not start.startswith(prefix) or len(start) < least
