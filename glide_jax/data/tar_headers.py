"""Finds the members of a tar by its headers, and continues after damage.

A tar consists of blocks of 512 bytes: headers, each followed by its content padded to
whole blocks, and two blocks of zeros at the end (POSIX.1-2001 pax, section "ustar
Interchange Format"; GNU's long names and base-256 numbers). Python's tarfile treats a
damaged header as the end of the archive, and allocates any size that an extended header
claims. Here the offset always increases, at most LONG_NAME_BYTES are read at once, and
after damage the walk continues at the next header.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

# (offset, size) -> bytes, fewer only at the end of the tar.
Read = Callable[[int, int], bytes]
BLOCK = 512
# The pax headers of img2dataset have a few hundred bytes.
LONG_NAME_BYTES = 64 << 10
# Bytes read at once in the search for the next header.
_SEARCH_BYTES = 1 << 20
_REGULAR, _LONG_NAME, _PAX = b"\x0007", b"L", b"x"
# Types of other headers that precede a member.
_IGNORED = b"gKV"
# Types without content: links, devices, folders.
_EMPTY = b"123456"
_LINKS = b"12"


class Member(NamedTuple):
    """A file in the archive; its content may exceed the end of a truncated tar."""

    name: str
    offset: int
    size: int


class Damage(NamedTuple):
    """An offset without the expected header; its member is lost.

    At the end of the file, only the two blocks of zeros are missing.
    """

    offset: int


class Link(NamedTuple):
    """A hard or symbolic link in the archive; it has no content."""

    name: str


class Joined(NamedTuple):
    """An end mark followed by another archive, as in the result of `cat a.tar b.tar`.

    Members after it are read, as by `tar --ignore-zeros`.
    """

    offset: int


class Trailer(NamedTuple):
    """Data after the end mark that is not an archive; it is not read."""

    offset: int


class _Header(NamedTuple):
    kind: bytes
    name: str
    size: int


def walk(read: Read, end: int) -> Iterator[Member | Link | Damage | Joined | Trailer]:
    """Yields the contents of a tar of `end` bytes in order of offset."""
    offset, name, size = 0, None, None
    while offset < end:
        block = read(offset, BLOCK)
        # One block of zeros is damage, two are the end mark.
        if not any(block) and not any(read(offset + BLOCK, BLOCK)):
            offset, name, size = _skip_zeros(read, offset, end), None, None
            if offset == end:
                return
            if _parse(read(offset, BLOCK)) is None:
                yield Trailer(offset)
                return
            yield Joined(offset)
            continue
        header = _parse(block)
        content = offset + BLOCK
        if header is None:
            yield Damage(offset)
            offset, name, size = _next_header(read, content, end), None, None
            continue
        length = header.size
        if header.kind in (_LONG_NAME, _PAX):
            try:
                found = _read_extended(read, header, content)
            except ValueError:
                yield Damage(offset)
            else:
                name = name if found[0] is None else found[0]
                size = size if found[1] is None else found[1]
        elif header.kind not in _IGNORED:
            length = header.size if size is None else size
            found_name = header.name if name is None else name
            if header.kind in _REGULAR:
                yield Member(found_name, content, length)
            elif header.kind in _LINKS:
                yield Link(found_name)
            name = size = None
            length = 0 if header.kind in _EMPTY else length
        offset = content + -(-length // BLOCK) * BLOCK
    if offset == end:
        yield Damage(end)


def _parse(block: bytes) -> _Header | None:
    """Parses the header in a block; None if it is not a header."""
    if len(block) < BLOCK:
        return None
    stated, size = _number(block[148:156]), _number(block[124:136])
    if stated is None or size is None:
        return None
    # The checksum field counts as spaces.
    summed = block[:148] + b" " * 8 + block[156:]
    # Old implementations sum signed bytes.
    if stated != sum(summed) and stated != sum(memoryview(summed).cast("b")):
        return None
    name = _text(block[:100])
    # GNU's format stores times in the field of the folder.
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    return _Header(block[156:157], name, size)


def _number(field: bytes) -> int | None:
    """Parses octal digits or GNU's base 256; None if invalid or negative."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0")[0].strip()
    if not digits:
        return 0
    # int() also accepts signs, underscores and 0o.
    return int(digits, 8) if all(48 <= digit < 56 for digit in digits) else None


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode(errors="replace")


def _read_extended(
    read: Read, header: _Header, content: int
) -> tuple[str | None, int | None]:
    """Reads name and size of the next member from a long-name or pax header.

    Raises:
      ValueError: the header is damaged or too long.
    """
    if header.size > LONG_NAME_BYTES:
        raise ValueError("too long")
    data = read(content, header.size)
    if len(data) < header.size:
        raise ValueError("cut")
    if header.kind == _LONG_NAME:
        return _text(data), None
    name = size = None
    for key, value in _pax_records(data):
        if key == b"path":
            name = value.decode(errors="replace")
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise ValueError("no size")
            size = int(value)
    return name, size


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields key and value of each "LENGTH KEY=VALUE\\n"; LENGTH is of the record."""
    while data:
        digits = data.partition(b" ")[0]
        length = int(digits) if digits.isdigit() and len(digits) < 6 else 0
        record = data[len(digits) + 1 : length]
        if not record.endswith(b"\n"):
            raise ValueError("no record")
        key, _, value = record[:-1].partition(b"=")
        yield key, value
        data = data[length:]


def _skip_zeros(read: Read, offset: int, end: int) -> int:
    """Returns the offset of the next block that is not all zeros, or `end`."""
    while offset < end:
        data = read(offset, min(_SEARCH_BYTES, end - offset))
        if not data:
            return end
        zeros = len(data) - len(data.lstrip(b"\0"))
        if zeros < len(data):
            return offset + zeros // BLOCK * BLOCK
        offset += len(data)
    return end


def _next_header(read: Read, offset: int, end: int) -> int:
    """Returns the offset of the next header; beyond `end` if there is none."""
    while offset < end:
        blocks = read(offset, _SEARCH_BYTES)
        for at in range(0, len(blocks) - BLOCK + 1, BLOCK):
            # Tests the magic first, since checksums of all blocks would take hours.
            is_marked = blocks[at + 257 : at + 262] == b"ustar"
            if is_marked and _parse(blocks[at : at + BLOCK]):
                return offset + at
        offset += _SEARCH_BYTES
    return end + 1
