"""Text helpers: counts and sizes, lines of a text, natural order of names."""

from __future__ import annotations

import re


def counted(count: int, noun: str) -> str:
    """Returns e.g. "1 picture" or "2,000 pictures" for a regular singular noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size(count: int) -> str:
    """Returns a number of bytes as e.g. "12.3 MB"."""
    unit, name = next(
        (unit, name)
        for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
        if count >= unit or unit == 1
    )
    return f"{count / unit:.{0 if unit == 1 else 1}f} {name}"


_LINE_END = re.compile(r"\r\n|\n|\r")


def split_lines(text: str) -> list[str]:
    r"""The lines of a text, without their ends.

    Lines end at "\n", "\r\n", and "\r" only. `str.splitlines` also splits at form feed,
    U+0085, U+2028, and five more, which captions from the web contain.
    """
    lines = _LINE_END.split(text)
    # A final line end does not begin another line.
    return lines[:-1] if lines[-1] == "" else lines


_DIGITS = re.compile(r"([0-9]+)")


def natural_key(name: str) -> tuple:
    """A sort key that compares runs of digits by their value.

    Names that differ only in leading zeros (1.png, 01.png) are ordered by their
    characters, so that the order is total.
    """
    parts = _DIGITS.split(name)
    # Odd indices hold digits, so that numbers are compared only with numbers.
    numbers = tuple(
        int(part) if place % 2 else part for place, part in enumerate(parts)
    )
    return numbers, name
