"""Lists the pictures of a folder, and logs which files are skipped."""

from __future__ import annotations

import collections
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from glide_jax.data import picture_files, picture_listing
from glide_jax.errors import UserError
from glide_jax.runtime import wording
from glide_jax.sample import output_folder, prompt_tokens

_SMALL = "picture of the base model"
_SHEET = "sheet of several pictures"
_UNLISTED = "picture that samples.json does not list"


class Listed(NamedTuple):
    """Picture files in order, and a caption for each; None: not all have one."""

    files: list[pathlib.Path]
    captions: list[str] | None


def list_pictures(folder: pathlib.Path, name: str) -> Listed:
    """Lists the pictures of a folder, as samples.json lists them, else all of them.

    Without samples.json these are the pictures at any depth, in natural order of their
    paths. One log line states how many there are and what is skipped.

    Args:
      folder: An existing folder.
      name: The flag as the user gave it, for messages, e.g. "--images=out".

    Raises:
      UserError: There is no picture, or samples.json was not written by `glide sample`
        or lists a picture that is missing.
    """
    if (folder / output_folder.RECORD).is_file():
        return _listed_by_record(folder, name)
    listing = picture_listing.list_files(folder)
    skipped = collections.Counter(listing.skipped)
    skipped.update(picture_listing.unknown_suffix(p.name) for p in listing.others)
    if not listing.pictures:
        suffixes = ", ".join(sorted(picture_files.SUFFIXES))
        raise UserError(
            f"{name} has no pictures ({suffixes}){_described(skipped)}; name a folder"
            " of pictures, or a .npz file"
        )
    used = f"{wording.counted(len(listing.pictures), 'picture')} in natural order"
    _log_skipped(name, used, skipped)
    return Listed(listing.pictures, None)


def _listed_by_record(folder: pathlib.Path, name: str) -> Listed:
    path = folder / output_folder.RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        entries = record["images"]
        files = [folder / entry["file"] for entry in entries]
        captions = [entry["prompt"] for entry in entries]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{path} is not a record of glide sample; remove it to read the pictures"
            " in natural order of their names"
        ) from error
    check_files(folder, record, name)
    # The prompt of a blend is not one caption.
    has_all = all(isinstance(text, str) for text in captions)
    return Listed(files, captions if has_all else None)


def check_files(folder: pathlib.Path, record: dict[str, Any], name: str) -> None:
    """Logs which files of a folder its samples.json does not list.

    A warning states that a run was not finished.

    Args:
      folder: An existing folder.
      record: The contents of samples.json, with "images".
      name: As in `list_pictures`.

    Raises:
      UserError: It lists no picture, or one that is missing.
    """
    entries = record["images"]
    listed = [entry["file"] for entry in entries]
    missing = [file for file in listed if not (folder / file).is_file()]
    if missing or not listed:
        what = (
            f"{wording.counted(len(missing), 'missing picture')}, e.g. {missing[0]}"
            if missing
            else "no picture"
        )
        raise UserError(f"{name}: samples.json lists {what}; draw the samples again")
    if output_folder.is_unfinished(record):
        logging.warning(
            "%s: its last run was stopped at %s; the command that began it draws the"
            " rest",
            *(name, output_folder.how_many(record)),
        )
    listing = picture_listing.list_files(folder)
    unique = set(listed)
    known: dict[str, str] = dict.fromkeys(output_folder.SHEETS, _SHEET)
    known |= {e["base_file"]: _SMALL for e in entries if "base_file" in e}
    skipped = collections.Counter(listing.skipped)
    for path in listing.pictures:
        file = path.relative_to(folder).as_posix()
        if file not in unique:
            skipped[known.get(file, _UNLISTED)] += 1
    others = (p for p in listing.others if p != folder / output_folder.RECORD)
    skipped.update(picture_listing.unknown_suffix(path.name) for path in others)
    used = f"{wording.counted(len(listed), 'picture')} that samples.json lists"
    _log_skipped(name, used, skipped)


def _log_skipped(name: str, used: str, skipped: Mapping[str, int]) -> None:
    logging.info("%s: %s%s", name, used, _described(skipped))


def _described(skipped: Mapping[str, int]) -> str:
    text = picture_listing.describe(skipped)
    return f"; {text}" if text else ""


class Sample(NamedTuple):
    """One picture: its file, and its prompt."""

    file: pathlib.Path
    prompt: str


def read(path: str) -> list[Sample]:
    """Returns the pictures that samples.json lists, in its order; at least one.

    The prompt of a blend is one text: `0.7 a corgi + 0.3 a cat`.

    Raises:
      UserError: samples.json is missing or invalid, or a picture is missing.
    """
    folder = pathlib.Path(path)
    remedy = "name a folder that `glide sample` wrote"
    try:
        record = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"--samples={path}: its samples.json cannot be read ({error.strerror});"
            f" {remedy}"
        ) from error
    except ValueError as error:
        raise UserError(
            f"--samples={path}: samples.json is not JSON; {remedy}"
        ) from error
    try:
        samples = [
            Sample(folder / entry["file"], prompt_tokens.as_text(entry["prompt"]))
            for entry in record["images"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--samples={path}: samples.json does not list pictures with their prompts;"
            f" {remedy}"
        ) from error
    check_files(folder, record, f"--samples={path}")
    return samples


def names_of(paths: Sequence[str]) -> list[str]:
    """Returns a short name for each folder, from the parts in which paths differ.

    The names of out/cfg/samples and out/clip/samples are cfg and clip.

    Raises:
      UserError: A folder is given twice.
    """
    parts = [pathlib.Path(path).resolve().parts for path in paths]
    if len(set(parts)) < len(parts):
        raise UserError(
            f"--samples names a folder twice ({', '.join(paths)}); give each model's"
            " own folder once"
        )
    while len({part[0] for part in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [part[1:] for part in parts]
    while len({part[-1] for part in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [part[:-1] for part in parts]
    return ["/".join(part) for part in parts]
