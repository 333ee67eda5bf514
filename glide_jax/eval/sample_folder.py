"""Reads a folder as `glide sample` writes it: its pictures with their prompts."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from glide_jax import errors
from glide_jax.eval import picture_folder
from glide_jax.sample import prompts


class Sample(NamedTuple):
    """One picture: its file, and the prompt it was drawn from."""

    file: pathlib.Path
    prompt: str


def read(path: str) -> list[Sample]:
    """The pictures that samples.json lists, in its order; at least one.

    A blend of several prompts is one text: `0.7 a corgi + 0.3 a cat`.

    Raises:
      UserError: no samples.json, not one of ours, or a picture is gone.
    """
    folder = pathlib.Path(path)
    remedy = "name a folder that `glide sample` wrote"
    try:
        record = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise errors.UserError(
            f"--samples={path}: its samples.json cannot be read ({error.strerror});"
            f" {remedy}"
        ) from error
    except ValueError as error:
        raise errors.UserError(
            f"--samples={path}: samples.json is not JSON; {remedy}"
        ) from error
    try:
        samples = [
            Sample(folder / entry["file"], prompts.as_text(entry["prompt"]))
            for entry in record["images"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise errors.UserError(
            f"--samples={path}: samples.json does not list pictures with their prompts;"
            f" {remedy}"
        ) from error
    picture_folder.check_files(folder, record, f"--samples={path}")
    return samples


def names_of(paths: Sequence[str]) -> list[str]:
    """A short name for each folder: what tells its path from the others.

    out/cfg/samples and out/clip/samples are cfg and clip.

    Raises:
      UserError: one folder given twice.
    """
    parts = [pathlib.Path(path).resolve().parts for path in paths]
    if len(set(parts)) < len(parts):
        raise errors.UserError(
            f"--samples names a folder twice ({', '.join(paths)}); give each model's"
            " own folder once"
        )
    while len({part[0] for part in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [part[1:] for part in parts]
    while len({part[-1] for part in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [part[:-1] for part in parts]
    return ["/".join(part) for part in parts]
