"""Parts of a run that several processes draw, until process 0 collects them.

A batch of pictures is a folder `OUTPUT/.parts/FIRST-STOP` with the pictures of these
numbers of the run, and a samples.json of its own, written last. A part that a killed
process leaves without it is drawn again. When all parts are there, the pictures are
moved to OUTPUT and samples.json lists them.
"""

from __future__ import annotations

import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from glide_jax.errors import UserError
from glide_jax.sample import output_folder

FOLDER = ".parts"
# [first, stop): numbers of pictures of a run
Span = tuple[int, int]
_NAME = re.compile(r"([0-9]+)-([0-9]+)")


def path(folder: pathlib.Path, span: Span) -> pathlib.Path:
    """Returns the folder of a part."""
    return folder / FOLDER / f"{span[0]:08d}-{span[1]:08d}"


def record_of(folder: pathlib.Path, span: Span) -> pathlib.Path:
    """Returns the file that completes a part."""
    return path(folder, span) / output_folder.RECORD


def write(
    folder: pathlib.Path,
    span: Span,
    pictures: Sequence[tuple[str, np.ndarray]],
    record: dict[str, Any],
) -> None:
    """Writes a part; see `output_folder.add` for the arguments and errors."""
    part = path(folder, span)
    try:
        # What a killed process left of it.
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"cannot write {part} ({error.strerror}); make room, or name another folder"
        ) from error
    output_folder.add(part, pictures, record)


def complete(
    folder: pathlib.Path, request: dict[str, Any], first_index: int
) -> list[Span]:
    """Returns the complete parts of a run, in order; removes what is incomplete.

    Args:
      folder: the output folder.
      request: as for `output_folder.start`.
      first_index: of the run.

    Raises:
      UserError: there are parts of another command.
    """
    found: list[Span] = []
    for part in sorted((folder / FOLDER).glob("*-*")):
        match = _NAME.fullmatch(part.name)
        if match is None:
            continue
        span = int(match[1]), int(match[2])
        record = output_folder.read_record(part)
        if record is not None:
            other = output_folder.difference(record, request)
            if record["settings"]["first_index"] != first_index:
                other = other or "the index of the first picture differs"
            if other and any(part.glob("*.png")):
                raise UserError(
                    f"--output={folder} holds parts of another command: {other}; give"
                    f" that command again to continue it, or remove {folder / FOLDER}"
                )
            is_whole = not other and _has_all(folder, span, record)
            if is_whole and (not found or found[-1][1] <= span[0]):
                found.append(span)
                continue
        shutil.rmtree(part)
    return found


def files(
    folder: pathlib.Path, span: Span
) -> list[tuple[dict[str, Any], pathlib.Path]]:
    """Returns the entries of a part with the folder that has their pictures.

    They are in the output folder already if a process was killed while it moved them.
    """
    part = path(folder, span)
    record = output_folder.read_record(part)
    entries = record["images"] if record else []
    return [(e, part if (part / e["file"]).exists() else folder) for e in entries]


def collect(
    folder: pathlib.Path,
    spans: Sequence[Span],
    sheets: Sequence[tuple[str, np.ndarray]],
    record: dict[str, Any],
) -> None:
    """Moves the pictures of all parts to the output folder, and writes samples.json.

    Args:
      folder: the output folder.
      spans: the parts, in order.
      sheets: names and pixels of sheets of all pictures.
      record: of the run; its "images" are those of the parts.

    Raises:
      UserError: a file cannot be written, or a part has no pictures any more.
    """
    entries, moved = [], []
    for span in spans:
        found = files(folder, span)
        if len(found) != span[1] - span[0]:
            raise UserError(
                f"{record_of(folder, span)} is not complete any more; the same command"
                " draws its pictures again"
            )
        entries += [entry for entry, _ in found]
        moved += [path(folder, span) / name for e, _ in found for name in names(e)]
    whole = {**record, "images": entries}
    output_folder.add(folder, sheets, whole, drawn=moved)
    shutil.rmtree(folder / FOLDER)


def names(entry: dict[str, Any]) -> list[str]:
    """Returns the files of an entry of samples.json."""
    return [entry[name] for name in ("file", "base_file") if name in entry]


def _has_all(folder: pathlib.Path, span: Span, record: dict[str, Any]) -> bool:
    """Whether all pictures of a part are there, or moved already."""
    return len(record["images"]) == span[1] - span[0] and all(
        (path(folder, span) / name).exists() or (folder / name).exists()
        for entry in record["images"]
        for name in names(entry)
    )
