"""Sorts names as people do: 2.png before 10.png."""

from __future__ import annotations

import re

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
