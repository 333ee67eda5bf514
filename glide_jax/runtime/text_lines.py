"""Splits text into lines."""

from __future__ import annotations

import re

_LINE_END = re.compile(r"\r\n|\n|\r")


def split_lines(text: str) -> list[str]:
    r"""The lines of a text, without their ends.

    Lines end at "\n", "\r\n", and "\r" only. `str.splitlines` also splits at form feed,
    U+0085, U+2028, and five more, which captions from the web contain.
    """
    lines = _LINE_END.split(text)
    # A final line end does not begin another line.
    return lines[:-1] if lines[-1] == "" else lines
