"""Says what samples a folder holds, and adds the samples of another run to it."""

from __future__ import annotations

import json
import logging
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from glide_jax import errors
from glide_jax.data import drafts
from glide_jax.runtime import counts
from glide_jax.sample import images

RECORD = "samples.json"
# Sheets of the pictures of one run.
SHEETS = ("grid.png", "beside.png")
_PICTURE = re.compile(r"([0-9]{6,})(?:_base)?\.png")


def choose_first_index(
    folder: pathlib.Path, *, append: bool, asked: int | None, span: int
) -> int:
    """The index of the first picture that a run writes into a folder.

    Args:
        folder: It exists.
        append: Whether the run may add to samples that the folder holds.
        asked: The index that the user asked for; None: 0, or with `append` one after
            the highest index in the folder.
        span: How many indices the run draws from.

    Raises:
        UserError: The folder holds samples and `append` is False; pictures with the
            indices that were asked for are there; a samples.json of something else.
    """
    record = read_record(folder)
    names = {path.name for path in folder.iterdir()}
    listed = {entry["file"] for entry in record["images"]} if record else set()
    pictures = {name for name in names | listed if _PICTURE.fullmatch(name)}
    taken = {int(_PICTURE.fullmatch(name)[1]) for name in pictures}
    following = max(taken, default=-1) + 1
    if not append:
        sheets = sorted(names.intersection(SHEETS))
        if record is not None or taken or sheets:
            found = ", ".join(sheets) or RECORD
            if taken:
                found = counts.counted(len(taken), "picture")
            raise errors.UserError(
                f"--output={folder} holds samples already ({found}"
                f"{'' if record else f', no {RECORD}'}); name another folder, or add"
                f" --append, which numbers the new pictures from {following} on"
            )
        return asked or 0
    unlisted = len(taken) - len({int(_PICTURE.fullmatch(n)[1]) for n in listed})
    if unlisted:
        logging.warning(
            "%s holds %d pictures that no %s lists; they stay as they are",
            *(folder, unlisted, RECORD),
        )
    if asked is None:
        return following
    both = taken.intersection(range(asked, asked + span))
    if both:
        raise errors.UserError(
            f"--first_index={asked}, but {folder} holds picture {min(both)} already;"
            f" leave it out to go on at {following}"
        )
    return asked


def read_record(folder: pathlib.Path) -> dict[str, Any] | None:
    """What samples.json holds; None: there is none.

    Raises:
        UserError: It is not one that `add` wrote.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        for entry in record["images"]:
            if not _PICTURE.fullmatch(entry["file"]):
                raise ValueError(entry["file"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise errors.UserError(
            f"{path} is not what glide sample writes; name another --output"
        ) from error
    return record


def add(
    folder: pathlib.Path,
    pictures: Sequence[tuple[str, np.ndarray]],
    record: dict[str, Any],
) -> int:
    """Writes the PNG files of a run, and samples.json with those of earlier runs.

    Files appear when all of them are written. Sheets of earlier runs are removed.

    Args:
        folder: It exists; see `choose_first_index`.
        pictures: Names and pixels, uint8 (H, W, 3).
        record: Of this run, with a list "images" of entries with "file".

    Returns:
        How many pictures samples.json lists now.

    Raises:
        UserError: A file cannot be written.
    """
    before = read_record(folder)
    if before is not None:
        record = _joined(before, record)
    try:
        with drafts.made(folder, "samples") as draft:
            images.write_all(draft, pictures, record)
            for name in SHEETS:
                (folder / name).unlink(missing_ok=True)
            # samples.json comes last: what it lists is there.
            for name in [*(name for name, _ in pictures), RECORD]:
                (draft / name).replace(folder / name)
    except OSError as error:
        raise errors.UserError(
            f"cannot write {error.filename or folder} ({error.strerror}); make room,"
            " or name another folder"
        ) from error
    return len(record["images"])


def _joined(before: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """The record of the last run, which lists the pictures of all runs.

    Entries of earlier runs have "run", a place in "earlier_runs", where the settings
    of those runs are; entries of the last run have none.
    """
    own = {k: v for k, v in before.items() if k not in ("images", "earlier_runs")}
    runs = [*before.get("earlier_runs", []), own]
    entries = [{"run": len(runs) - 1, **entry} for entry in before["images"]]
    return {**record, "earlier_runs": runs, "images": [*entries, *record["images"]]}
