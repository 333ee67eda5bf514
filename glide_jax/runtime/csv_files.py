"""Detects the encoding and the separator of CSV files from people and spreadsheets."""

from __future__ import annotations

import codecs
import pathlib
import re
from typing import TextIO

SEPARATORS = ",;\t"


def encoding(path: str | pathlib.Path) -> str:
    """UTF-8, or as given by the byte order mark: Excel's "Unicode text" is UTF-16."""
    with open(path, "rb") as file:
        is_utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return "utf-16" if is_utf16 else "utf-8-sig"


def find_separator(file: TextIO, max_line: int = -1) -> tuple[str, int]:
    """The separator of the columns by the header, and the number of lines above that.

    The file is left at the header. Excel takes a first line such as sep=; as the
    separator, and some programs write it.

    Args:
      file: at its start.
      max_line: characters of a line that are read; -1: all.
    """
    start, first = 0, file.readline(max_line)
    stated = re.fullmatch(f"sep=([{SEPARATORS}])", first.rstrip("\r\n"))
    if stated:
        start, first = file.tell(), file.readline(max_line)
    file.seek(start)
    # Column names contain no separators.
    found = stated[1] if stated else max(SEPARATORS, key=first.count)
    return found, 1 if stated else 0
