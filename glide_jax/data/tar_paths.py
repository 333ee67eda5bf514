"""Expands the place of a webdataset source to its tars."""

from __future__ import annotations

import collections
import glob
import os
import pathlib
import re

from glide_jax.data import picture_listing
from glide_jax.errors import UserError
from glide_jax.runtime import paths, wording

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
NOT_A_TAR = "file that is not a tar"
SAME_TAR = "tar that is listed already"


def expand(where: str) -> tuple[list[pathlib.Path], collections.Counter[str]]:
    """Returns the tars of comma-separated parts, in natural order, and skipped files.

    A part is a path, a glob, or a folder with tars at any depth. It may contain ranges
    {000..012} and alternatives {a,b}. If `where` as a whole is a folder, its commas,
    braces and brackets have no special meaning.

    Raises:
      UserError: a part, or one of its expansions, matches no file.
    """
    found: dict[str, None] = {}
    skipped: collections.Counter[str] = collections.Counter()
    for one in _parts(where):
        path = paths.local_path(one, "webdataset")
        if path.is_dir():
            names = _in_folder(path, skipped)
            if not names:
                raise UserError(
                    f"webdataset:{where}: the folder {one} contains no tar; use"
                    f" folder:{one} for pictures, or a glob of tars"
                )
        else:
            names = glob.glob(str(path), recursive=True)
        if not names:
            raise UserError(
                f"webdataset:{where} matches no file at {one}; give existing tar files,"
                " globs, ranges such as {000..012}, or a folder of tars (options are"
                " ?image=, ?caption=, and ?captions=)"
            )
        found.update(dict.fromkeys(names))
    if not found:
        raise UserError("webdataset: has no place; use e.g. webdataset:FOLDER/*.tar")
    names = sorted(found, key=wording.natural_key)
    if "**" in where:
        names = _without_links_to_same(names, skipped)
    return [pathlib.Path(name) for name in names], skipped


def _parts(where: str) -> list[str]:
    """Splits a place into globs and folders."""
    whole = where.strip()
    if whole and paths.local_path(whole, "webdataset").is_dir():
        return [whole]
    return split_parts(where)


def split_parts(where: str) -> list[str]:
    """Splits a place at its commas, and expands the braces."""
    parts = filter(None, map(str.strip, _split_outside_braces(where)))
    return [one for part in parts for one in _expand_braces(part)]


def _in_folder(folder: pathlib.Path, skipped: collections.Counter[str]) -> list[str]:
    names, others = picture_listing.list_names(folder)
    tars = [name for name in names if is_tar(name)]
    others[NOT_A_TAR] = len(names) - len(tars)
    skipped.update(others)
    return [os.path.join(folder, name) for name in tars]


def is_tar(name: str) -> bool:
    """Whether a file name has the suffix of an uncompressed tar, in any case."""
    return name.lower().endswith(".tar")


def _without_links_to_same(
    names: list[str], skipped: collections.Counter[str]
) -> list[str]:
    """Removes repeated files: `**` follows links, even loops of them."""
    by_file: dict[str, str] = {}
    for name in names:
        by_file.setdefault(os.path.realpath(name), name)
    skipped[SAME_TAR] += len(names) - len(by_file)
    return list(by_file.values())


def _expand_braces(pattern: str) -> list[str]:
    """Expands ranges {000..012} and alternatives {a,b}, also nested; keeps others."""
    start = pattern.find("{")
    while start >= 0:
        end = _closing_brace(pattern, start)
        content = pattern[start + 1 : end]
        options = _options_of(content) if end > start else []
        if options:
            head, tails = pattern[:start], _expand_braces(pattern[end + 1 :])
            return [head + o + t for o in options for t in tails]
        start = pattern.find("{", start + 1)
    return [pattern]


def _options_of(content: str) -> list[str]:
    """Expands the content of a pair of braces; [] if they have no meaning."""
    if match := _RANGE.fullmatch(content):
        first, last = match.groups()
        step = 1 if int(first) <= int(last) else -1
        numbers = range(int(first), int(last) + step, step)
        return [f"{number:0{len(first)}d}" for number in numbers]
    parts = _split_outside_braces(content)
    if len(parts) < 2:
        return []
    return [option for part in parts for option in _expand_braces(part)]


def _closing_brace(pattern: str, start: int) -> int:
    """Returns the index of the brace that closes the one at `start`, or -1."""
    depth = 0
    for place in range(start, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[place], 0)
        if depth == 0:
            return place
    return -1


def _split_outside_braces(text: str) -> list[str]:
    """Splits at the commas outside braces."""
    parts, depth = [""], 0
    for letter in text:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
