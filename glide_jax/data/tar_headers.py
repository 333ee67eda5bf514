"""Finds the members of a tar by its headers alone, and reads on behind damage.

Blocks of 512 bytes: a header, the member's content padded to whole blocks, and so on to
two blocks of zeros (POSIX.1-2001 pax, section "ustar Interchange Format"; GNU's long
names and base-256 numbers). Python's tarfile takes a damaged header for the end of the
archive, which loses the rest in silence, and holds whatever an extended header claims
to be long. Here every step goes forward, nothing beyond LONG_NAME_BYTES is held, and
after damage the walk goes on at the next block that is a header.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from glide_jax.data import retrying_reads

BLOCK = 512
# A pax header of img2dataset's tars has some hundred bytes.
LONG_NAME_BYTES = 64 << 10
# Read at once in the search for the next header.
_SEARCH_BYTES = 1 << 20
_REGULAR, _LONG_NAME, _PAX = b"\x0007", b"L", b"x"
# Stand before a member as well, and say nothing that is needed here.
_PASSED_OVER = b"gKV"
# Types whose content is nothing but a place in the archive: links, devices, folders.
_EMPTY = b"123456"
_LINKS = b"12"


class Member(NamedTuple):
    """A file in the archive; its content may run past the end of a tar that was cut."""

    name: str
    offset: int
    size: int


class Damage(NamedTuple):
    """A place where a header should stand and does not; what it named is lost.

    At the very end of the file only the two blocks of zeros are missing.
    """

    offset: int


class Link(NamedTuple):
    """A hard or symbolic link in the archive; it has no content of its own."""

    name: str


class Joined(NamedTuple):
    """An end mark with another archive behind it, which is read on: `cat a.tar b.tar`.

    `tar --ignore-zeros` reads such files alike.
    """

    offset: int


class Trailer(NamedTuple):
    """Data behind the end mark that is not an archive; it is not read."""

    offset: int


class _Header(NamedTuple):
    kind: bytes
    name: str
    size: int


def walk(
    descriptor: int, end: int
) -> Iterator[Member | Link | Damage | Joined | Trailer]:
    """What a tar of `end` bytes holds, in order of offset."""
    offset, name, size = 0, None, None
    while offset < end:
        block = retrying_reads.read_at(descriptor, offset, BLOCK)
        # One block of zeros alone is damage, two are the end.
        if not any(block) and not any(
            retrying_reads.read_at(descriptor, offset + BLOCK, BLOCK)
        ):
            offset, name, size = _skip_zeros(descriptor, offset, end), None, None
            if offset == end:
                return
            if _parse(retrying_reads.read_at(descriptor, offset, BLOCK)) is None:
                yield Trailer(offset)
                return
            yield Joined(offset)
            continue
        header = _parse(block)
        content = offset + BLOCK
        if header is None:
            yield Damage(offset)
            offset, name, size = _next_header(descriptor, content, end), None, None
            continue
        length = header.size
        if header.kind in (_LONG_NAME, _PAX):
            try:
                found = _read_extended(descriptor, header, content)
            except ValueError:
                yield Damage(offset)
            else:
                name = name if found[0] is None else found[0]
                size = size if found[1] is None else found[1]
        elif header.kind not in _PASSED_OVER:
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
    """The header in a block; None if it is none."""
    if len(block) < BLOCK:
        return None
    stated, size = _number(block[148:156]), _number(block[124:136])
    if stated is None or size is None:
        return None
    # The checksum's own field counts as spaces.
    summed = block[:148] + b" " * 8 + block[156:]
    # Old tars summed signed bytes.
    if stated != sum(summed) and stated != sum(memoryview(summed).cast("b")):
        return None
    name = _text(block[:100])
    # GNU's own format keeps times where POSIX keeps the folder.
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    return _Header(block[156:157], name, size)


def _number(field: bytes) -> int | None:
    """Octal digits, or GNU's base 256; None for neither and for negative numbers."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0")[0].strip()
    if not digits:
        return 0
    # int() would also take signs, underscores and 0o.
    return int(digits, 8) if all(48 <= digit < 56 for digit in digits) else None


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode(errors="replace")


def _read_extended(
    descriptor: int, header: _Header, content: int
) -> tuple[str | None, int | None]:
    """Name and size that a long-name or pax header sets for the next member.

    Raises:
      ValueError: it is damaged, or too long to be true.
    """
    if header.size > LONG_NAME_BYTES:
        raise ValueError("too long")
    held = retrying_reads.read_at(descriptor, content, header.size)
    if len(held) < header.size:
        raise ValueError("cut")
    if header.kind == _LONG_NAME:
        return _text(held), None
    name = size = None
    for key, value in _pax_records(held):
        if key == b"path":
            name = value.decode(errors="replace")
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise ValueError("no size")
            size = int(value)
    return name, size


def _pax_records(held: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each "LENGTH KEY=VALUE\\n"; the length is of all of it."""
    while held:
        digits = held.partition(b" ")[0]
        length = int(digits) if digits.isdigit() and len(digits) < 6 else 0
        record = held[len(digits) + 1 : length]
        if not record.endswith(b"\n"):
            raise ValueError("no record")
        key, _, value = record[:-1].partition(b"=")
        yield key, value
        held = held[length:]


def _skip_zeros(descriptor: int, offset: int, end: int) -> int:
    """Offset of the next block from `offset` on that is not all zeros, or `end`."""
    while offset < end:
        held = retrying_reads.read_at(
            descriptor, offset, min(_SEARCH_BYTES, end - offset)
        )
        if not held:
            return end
        zeros = len(held) - len(held.lstrip(b"\0"))
        if zeros < len(held):
            return offset + zeros // BLOCK * BLOCK
        offset += len(held)
    return end


def _next_header(descriptor: int, offset: int, end: int) -> int:
    """Offset of the next block that is a header; past `end` if there is none."""
    while offset < end:
        blocks = retrying_reads.read_at(descriptor, offset, _SEARCH_BYTES)
        for at in range(0, len(blocks) - BLOCK + 1, BLOCK):
            # The mark first: a checksum of each block would take hours on a big tar.
            is_marked = blocks[at + 257 : at + 262] == b"ustar"
            if is_marked and _parse(blocks[at : at + BLOCK]):
                return offset + at
        offset += _SEARCH_BYTES
    return end + 1
