"""Takes metadata out of picture files, so that only the pixels decide what is read.

Pillow refuses a PNG whose texts or colour profile are large, and a JPEG with one
segment that it does not understand, although libpng and libjpeg read their pixels.
"""

from __future__ import annotations

import zlib
from typing import Any

# The largest profiles of printing presses have 3 MB.
MAX_PROFILE_BYTES = 4 << 20
_MAX_EXIF_BYTES = 1 << 20
_PNG = b"\x89PNG\r\n\x1a\n"
# ImageMagick keeps the EXIF of a JPEG here, in hexadecimal.
_RAW_EXIF = b"Raw profile type exif\0"
_TRANSPARENCY, _END = b"tRNS", b"IEND"
# The start of what is kept of a JPEG segment, and the least size at which Pillow reads
# it. Pixels depend on the first and the last of them: they say how colours are coded.
_JPEG_KEPT = {
    0xE0: (b"JFIF\0", 14),
    0xE1: (b"Exif\0\0", 14),
    0xE2: (b"ICC_PROFILE\0", 15),
    0xEE: (b"Adobe", 12),
}
_COMMENT = 0xFE


def split(content: bytes) -> tuple[bytes, dict[str, Any]]:
    """The file without its metadata, and the metadata that its pixels need.

    The second has the names of Pillow's `Image.info`: "exif" and "icc_profile" of a
    PNG. In other formats these stay in the file. A profile that cannot be unpacked is
    b"". A file that is no PNG or JPEG, or whose structure is broken, passes unchanged
    from there on; the decoder will say what is wrong with it.

    Raises:
      SyntaxError: the checksum of a chunk of pixels is wrong. (Pillow does not check
        it.)
    """
    if content.startswith(_PNG):
        return _split_png(content)
    if content.startswith(b"\xff\xd8\xff"):
        return _split_jpeg(content), {}
    return content, {}


def _split_png(content: bytes) -> tuple[bytes, dict[str, Any]]:
    view, kept, found = memoryview(content), [content[:8]], {}
    at = len(_PNG)
    while at + 8 <= len(content):
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        kind = bytes(view[at + 4 : at + 8])
        if end > len(content):
            break
        # An upper-case first letter marks the chunks that pixels are made of. Those of
        # an animation are not among them: what remains is its first frame.
        if kind[:1].isupper() or kind == _TRANSPARENCY:
            _check_sum(view[at + 4 : end], kind)
            kept.append(view[at:end])
        else:
            _read_ancillary(kind, bytes(view[at + 8 : end - 4]), found)
        at = end
        if kind == _END:
            break
    # Nothing, or a chunk that is cut off.
    kept.append(view[at:])
    return b"".join(kept), found


def _check_sum(chunk: memoryview, kind: bytes) -> None:
    """Raises SyntaxError if the last four bytes are not the checksum of the others."""
    if kind != _END and zlib.crc32(chunk[:-4]).to_bytes(4, "big") != chunk[-4:]:
        raise SyntaxError(f"the checksum of chunk {kind.decode('latin-1')} is wrong")


def _read_ancillary(kind: bytes, data: bytes, found: dict[str, Any]) -> None:
    if kind == b"iCCP":
        # A name, a zero byte, the method of compression (always 0).
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
    """The unpacked data; b"" if it is damaged, cut off, or above the limit."""
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(packed, limit)
    except zlib.error:
        return b""
    return data if stream.eof else b""


def _from_hexadecimal(text: bytes) -> bytes:
    """The profile in ImageMagick's text: a line end, a name, a length, digits."""
    digits = b"".join(text.split(b"\n")[3:])
    try:
        return bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return b""


def _split_jpeg(content: bytes) -> bytes:
    view, kept, at = memoryview(content), [content[:2]], 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if not (0xC0 <= marker <= _COMMENT) or 0xD0 <= marker <= 0xDA:
            # Compressed pixels begin, or the file is not as it should be.
            break
        end = at + 2 + int.from_bytes(view[at + 2 : at + 4], "big")
        if not _is_metadata(marker, bytes(view[at + 4 : min(end, at + 24)])):
            kept.append(view[at:end])
        at = end
    return b"".join([*kept, view[at:]])


def _is_metadata(marker: int, start: bytes) -> bool:
    """Whether a segment that starts so can be left out."""
    if not (0xE0 <= marker <= 0xEF or marker == _COMMENT):
        return False
    prefix, least = _JPEG_KEPT.get(marker, (b"", 0))
    return not prefix or not start.startswith(prefix) or len(start) < least
