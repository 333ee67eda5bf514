"""Describes the used and the skipped records of a source in one line."""

from __future__ import annotations

import collections
import dataclasses
from typing import Protocol, runtime_checkable

from glide_jax.data import picture_listing
from glide_jax.runtime import wording


def used(count: int, has_captions: bool) -> str:
    """Formats e.g. "92 pictures with captions"."""
    pictures = wording.counted(count, "picture")
    if not has_captions:
        return pictures
    return f"{pictures} with {'a caption' if count == 1 else 'captions'}"


@dataclasses.dataclass
class SourceReport:
    """The result of opening a source.

    Attributes:
      used: the number of records, with their kind, e.g. "92 pictures with captions".
      skipped: the number of unused files or records, by reason.
      notes: the interpretation of ambiguous input.
    """

    used: str = ""
    skipped: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )
    notes: list[str] = dataclasses.field(default_factory=list)

    def describe(self) -> str:
        """Formats e.g. "92 pictures with captions; skipped: broken link (1)"."""
        skipped = picture_listing.describe(self.skipped)
        return "; ".join(filter(None, (self.used, *self.notes, skipped)))

    def note_dotted(self, count: int) -> None:
        """Notes the records with a dot in the key, unlike webdataset's."""
        if count:
            keys = wording.counted(count, "key")
            self.notes.append(f"{keys} up to the last dot of the name")


@runtime_checkable
class Reporting(Protocol):
    """A source that counts what it uses and skips."""

    report: SourceReport
