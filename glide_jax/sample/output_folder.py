"""Reads the samples of a folder, and adds those of a run as they are drawn.

samples.json lists the pictures in the folder. The record of a run has "asked", with the
number of pictures of its command. While the list has fewer, the run is unfinished, and
the same command continues it.
"""

from __future__ import annotations

import json
import logging
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from glide_jax.errors import UserError
from glide_jax.runtime import files, scratch_dirs, wording
from glide_jax.sample import image_io

RECORD = "samples.json"
# Sheets of the pictures of one run.
SHEETS = ("grid.png", "beside.png")
# Members of the record that belong to all runs.
_OF_RUNS = ("earlier_runs", "images")
_PICTURE = re.compile(r"([0-9]{6,})(?:_base)?\.png")


class Start(NamedTuple):
    """The start of a run in a folder.

    Attributes:
      first_index: index of the first picture of the whole run.
      num_done: number of pictures of the run in the folder.
    """

    first_index: int
    num_done: int


def start(
    folder: pathlib.Path,
    request: dict[str, Any],
    *,
    append: bool,
    first_index: int | None,
    span: int,
) -> Start:
    """Returns the start of a run, which continues an unfinished run of its request.

    Args:
      folder: an existing folder.
      request: the part of the run's record that is known before anything is drawn:
        "verb", "asked", "bundles" and digests of input files.
      append: whether the run may add to samples in the folder.
      first_index: the index given by the user, or None.
      span: number of indices that the run draws.

    Raises:
      UserError: as `choose_first_index`; an unfinished run of another request, without
        `append`.
    """
    before = read_record(folder)
    if before is not None and is_unfinished(before):
        there, held = len(own_entries(before)), how_many(before)
        other = difference(before, request)
        if other is None:
            settings = before["settings"]
            first = settings["first_index"]
            logging.info(
                "%s are drawn; continuing with picture %d",
                *(held, first + there * settings["candidates"]),
            )
            if before["versions"] != image_io.versions():
                logging.warning(
                    "they were drawn with other versions of packages (see versions in"
                    " %s); pictures may differ a little from an uninterrupted run's",
                    folder / RECORD,
                )
            return Start(first, there)
        if not append:
            raise UserError(
                f"--output={folder} holds {held} of another command: {other}; give"
                " that command again to continue it, add --append, or name another"
                " folder"
            )
        logging.warning(
            "%s holds %s of another command (%s), which stays unfinished",
            *(folder, held, other),
        )
    first = choose_first_index(folder, append=append, asked=first_index, span=span)
    return Start(first, 0)


def is_unfinished(record: dict[str, Any]) -> bool:
    """Whether the folder has fewer pictures than the last run's command asks for."""
    return "asked" in record and len(own_entries(record)) < record["asked"]["pictures"]


def how_many(record: dict[str, Any]) -> str:
    """Returns the progress of an unfinished run, e.g. "12 of 40 pictures"."""
    asked = wording.counted(record["asked"]["pictures"], "picture")
    return f"{len(own_entries(record)):,} of {asked}"


def own_entries(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the entries of the last run."""
    return [entry for entry in record["images"] if "run" not in entry]


def difference(before: dict[str, Any], request: dict[str, Any]) -> str | None:
    """Returns the first difference of two requests, or None."""
    there, here = _identity(before), _identity(request)
    for name in dict.fromkeys([*here, *there]):
        values = [found.get(name) for found in (there, here)]
        if values[0] == values[1]:
            continue
        if name.startswith("the "):  # a digest is of no use to the user
            return f"{name} differs"
        old, new = (
            "not given" if value is None else json.dumps(value, ensure_ascii=False)
            for value in values
        )
        return f"{name} is {old} there and {new} here"
    return None


def _identity(record: dict[str, Any]) -> dict[str, Any]:
    """Returns everything that determines the pictures of a run, by name."""
    asked = record["asked"]
    inputs = [
        (name, found["sha256"])
        for name, found in record.items()
        if isinstance(found, dict) and "sha256" in found
    ]
    return {
        "verb": record["verb"],
        **{f"--{name}": value for name, value in asked["flags"].items()},
        "the number of pictures": asked["pictures"],
        "the text of the prompts": asked["prompts_sha256"],
        **{f"the bundle of --{k}": v["digest"] for k, v in record["bundles"].items()},
        **{f"the file of --{name}": digest for name, digest in inputs},
    }


def choose_first_index(
    folder: pathlib.Path, *, append: bool, asked: int | None, span: int
) -> int:
    """Returns the index of the first picture that a run writes into a folder.

    Args:
      folder: an existing folder.
      append: whether the run may add to samples in the folder.
      asked: the index given by the user; None: 0, or with `append` one after the
        highest index in the folder.
      span: number of indices that the run draws.

    Raises:
      UserError: samples in the folder without `append`, pictures with the same
        indices, or a samples.json of something else.
    """
    record = read_record(folder)
    names = {path.name for path in folder.iterdir()}
    listed = {entry["file"] for entry in record["images"]} if record else set()
    taken = _indices(names | listed)
    following = max(taken, default=-1) + 1
    if not append:
        sheets = sorted(names.intersection(SHEETS))
        if record is not None or taken or sheets:
            found = ", ".join(sheets) or RECORD
            if taken:
                found = wording.counted(len(taken), "picture")
            raise UserError(
                f"--output={folder} holds samples already ({found}"
                f"{'' if record else f', no {RECORD}'}); name another folder, or add"
                f" --append, which numbers the new pictures from {following} on"
            )
        return asked or 0
    unlisted = len(taken) - len(_indices(listed))
    if unlisted:
        logging.warning(
            "%s holds %s that no %s lists; nothing there is changed",
            *(folder, wording.counted(unlisted, "picture"), RECORD),
        )
    if asked is None:
        return following
    both = taken.intersection(range(asked, asked + span))
    if both:
        raise UserError(
            f"--first_index={asked}, but {folder} holds picture {min(both)} already;"
            f" leave it out to continue at {following}"
        )
    return asked


def _indices(names: set[str]) -> set[int]:
    """Returns the indices of the names of pictures."""
    matches = [_PICTURE.fullmatch(name) for name in names]
    return {int(match[1]) for match in matches if match}


def read_record(folder: pathlib.Path) -> dict[str, Any] | None:
    """Reads samples.json; None if there is none.

    Raises:
      UserError: a file that `add` did not write.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        for entry in record["images"]:
            if not _PICTURE.fullmatch(entry["file"]):
                raise ValueError(entry["file"])
        if is_unfinished(record):
            _identity(record)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not what glide sample writes; name another --output"
        ) from error
    return record


def add(
    folder: pathlib.Path,
    pictures: Sequence[tuple[str, np.ndarray]],
    record: dict[str, Any],
    *,
    drawn: Sequence[pathlib.Path] = (),
) -> int:
    """Writes PNG files of a run, and adds them to samples.json.

    The files are moved into the folder when all are written. The first ones of a run
    remove the sheets of earlier runs.

    Args:
      folder: an existing folder; see `start`.
      pictures: names and pixels, uint8 (H, W, 3).
      record: record of the run, with the entries of the new pictures as "images".
      drawn: files of these pictures that are written already, see `part_folders`; they
        are moved into the folder as well, unless they are there.

    Returns:
      The number of pictures in samples.json.

    Raises:
      UserError: a file cannot be written.
    """
    before = read_record(folder)
    continues = (
        before is not None
        and is_unfinished(before)
        and difference(before, record) is None
    )
    if before is None:
        held = {"images": []}
    elif continues:
        held = {name: before[name] for name in _OF_RUNS if name in before}
    else:
        held = _as_earlier(before)
    whole = {**record, **held, "images": [*held["images"], *record["images"]]}
    try:
        with scratch_dirs.made(folder, "samples") as draft:
            image_io.write_all(draft, pictures, whole)
            if not continues:
                _announce(folder, draft, {**record, **held})
            for file in drawn:
                if file.exists():
                    files.rename(file, folder / file.name)
            # samples.json is last, so that the pictures in it exist.
            for name in [*(name for name, _ in pictures), RECORD]:
                files.rename(draft / name, folder / name)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or folder} ({error.strerror}); make room,"
            " or name another folder"
        ) from error
    return len(whole["images"])


def _announce(
    folder: pathlib.Path, draft: pathlib.Path, record: dict[str, Any]
) -> None:
    """Writes the record of a run without its pictures into the folder.

    If the process is killed while it moves the first pictures, the same command then
    continues the run.
    """
    empty = draft / f"empty_{RECORD}"
    image_io.write_sidecar(empty, record)
    files.rename(empty, folder / RECORD)
    for name in SHEETS:
        (folder / name).unlink(missing_ok=True)


def _as_earlier(before: dict[str, Any]) -> dict[str, Any]:
    """Returns the parts of a record that the record of the next run contains.

    Entries of earlier runs have "run", an index into "earlier_runs" with the settings
    of those runs; entries of the last run have none.
    """
    own = {name: value for name, value in before.items() if name not in _OF_RUNS}
    runs = [*before.get("earlier_runs", []), own]
    entries = [{"run": len(runs) - 1, **entry} for entry in before["images"]]
    return {"earlier_runs": runs, "images": entries}
