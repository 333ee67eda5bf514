"""Describes what a source uses and what it passes over, in one line."""

from __future__ import annotations

import collections
import dataclasses

from glide_jax.data import picture_listing
from glide_jax.runtime import wording


def used(count: int, has_captions: bool) -> str:
    """E.g. "92 pictures with captions"."""
    pictures = wording.counted(count, "picture")
    if not has_captions:
        return pictures
    return f"{pictures} with {'a caption' if count == 1 else 'captions'}"


@dataclasses.dataclass
class SourceReport:
    """What was found when a source was opened.

    Attributes:
      used: the number of records, with their kind, e.g. "92 pictures with captions".
      passed_over: the number of files or records that are not used, by reason.
      notes: how ambiguous input was read.
    """

    used: str = ""
    passed_over: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )
    notes: list[str] = dataclasses.field(default_factory=list)

    def describe(self) -> str:
        """E.g. "92 pictures with captions; passed over: broken link (1)"."""
        passed_over = picture_listing.describe(self.passed_over)
        return "; ".join(filter(None, (self.used, *self.notes, passed_over)))

    def note_dotted(self, count: int) -> None:
        """Notes records whose key has a dot, unlike webdataset's."""
        if count:
            keys = wording.counted(count, "key")
            self.notes.append(f"{keys} up to the last dot of the name")
