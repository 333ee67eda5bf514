"""Parses the options of a data source, e.g. "folder:DIR?image=png&captions=join".

The text after a "?" is parsed as options only if it consists of known names with
values. Any other "?" belongs to the path, where globs use it for one character.
"""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Collection

from glide_jax.data import picture_files
from glide_jax.errors import UserError

NAMES = ("image", "caption", "captions")
# Suffixes of caption files, in order of precedence.
TEXT_SUFFIXES = (".txt", ".caption", ".cap")
# Policies for several captions of one picture.
POLICIES = ("first", "random", "join")
_SETTING = f"(?:{'|'.join(NAMES)})=[^&?]*"
_OPTIONS = re.compile(rf"\?({_SETTING}(?:&{_SETTING})*)$")


@dataclasses.dataclass(frozen=True)
class Options:
    """The files of a sample that are read, and the policy for several captions.

    Attributes:
      image: the extension of the picture, after the key and its dot, lower-case, e.g.
        "jpg" or "seg.png"; "": the only picture of the best rank.
      text: the extension of the caption file, e.g. "txt"; "": the best rank.
      column: the JSON key or the table column with the caption, instead of a caption
        file; "": a caption file first, else the default names.
      captions: one of POLICIES; "": a whole caption file is one caption, and the first
        caption of a list is used.
    """

    image: str = ""
    text: str = ""
    column: str = ""
    captions: str = ""


def split_options(where: str) -> tuple[str, Options]:
    """Splits a place into the place without its options, and the options.

    `caption=` selects a caption file if it ends in txt, cap, or .caption, and a key or
    column otherwise.

    Raises:
      UserError: an option is set twice, is empty, or has an unknown value.
    """
    match = _OPTIONS.search(where)
    if match is None:
        return where, Options()
    given = parse_query(match[1], NAMES, where)
    caption = given.get("caption", "")
    extension = caption.lower().removeprefix(".")
    # "caption" is the usual name of a column; ".caption" is the extension.
    is_text = caption != "caption" and _suffix(extension) in TEXT_SUFFIXES
    return where[: match.start()], Options(
        image=_image_extension(given["image"], where) if "image" in given else "",
        text=extension if is_text else "",
        # "json" selects the default key of JSON files.
        column="" if is_text else "caption" if extension == "json" else caption,
        captions=check_policy(given.get("captions", ""), where),
    )


def parse_query(query: str, names: Collection[str], where: str) -> dict[str, str]:
    """Parses "a=1&b=2"; "+" is not a space.

    Raises:
      UserError: a name is unknown, is set twice, or has no value.
    """
    query = query.replace("+", "%2B")
    pairs = urllib.parse.parse_qsl(query, keep_blank_values=True)
    given = dict(pairs)
    for name, value in pairs:
        if name not in names:
            raise UserError(
                f"data source {where} sets {name}; use only {', '.join(names)}"
            )
        if not value:
            raise UserError(f"data source {where} sets an empty {name}; give a value")
    if len(given) < len(pairs):
        raise UserError(f"data source {where} sets an option twice; set it once")
    return given


def check_policy(policy: str, where: str) -> str:
    """Checks and returns the policy for several captions; "" is allowed.

    Raises:
      UserError: the policy is not one of POLICIES.
    """
    if policy and policy not in POLICIES:
        raise UserError(
            f"data source {where} sets captions={policy};"
            f" use one of {', '.join(POLICIES)}"
        )
    return policy


def _suffix(extension: str) -> str:
    """Returns the suffix of an extension, e.g. ".png" of "seg.png"."""
    return f".{extension.rpartition('.')[2]}"


def _image_extension(given: str, where: str) -> str:
    extension = given.lower().removeprefix(".")
    if _suffix(extension) not in picture_files.SUFFIXES:
        known = ", ".join(sorted(picture_files.SUFFIXES))
        raise UserError(
            f"data source {where} sets image={given}, not an extension of pictures;"
            f" use one that ends in {known}"
        )
    return extension
