"""The kinds of data sources, importable without JAX.

`SOURCES` is the only list of kinds that validation, help and messages read;
`sources.OPENERS` has the function that opens each.
"""

from __future__ import annotations

from typing import NamedTuple


class SourceKind(NamedTuple):
    """A kind of source.

    Attributes:
      forms: its specs, for help and messages.
      has_files: whether its sources read files that can be listed.
    """

    forms: tuple[str, ...]
    has_files: bool = False


SOURCES = {
    "shapes": SourceKind(("shapes:quickstart", "shapes:full")),
    "webdataset": SourceKind(("webdataset:GLOB_OR_DIR",), has_files=True),
    "folder": SourceKind(("folder:DIR",), has_files=True),
    "csv": SourceKind(("csv:FILE.csv",), has_files=True),
    "tfds": SourceKind(("tfds:NAME_OR_DIR",)),
}


def forms() -> str:
    """The specs of all kinds, e.g. "shapes:quickstart, ..., tfds:NAME_OR_DIR"."""
    return ", ".join(form for kind in SOURCES.values() for form in kind.forms)


def is_spec(text: str) -> bool:
    """Whether a text starts with a kind of source and a colon."""
    kind, colon, _ = text.partition(":")
    return bool(colon) and kind in SOURCES
