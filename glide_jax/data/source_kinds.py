"""The kinds of data sources: the modules of `data/kinds/`, importable without JAX.

The module NAME.py opens sources "NAME:PLACE". It has `FORMS`, its specs for help and
messages, and `open_source(place)`. It imports the reader of its files within that
function, so that help appears at once.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from glide_jax.data import kinds

if TYPE_CHECKING:
    from glide_jax.data import schema


@dataclasses.dataclass(frozen=True)
class Place:
    """The argument of `open_source`.

    Attributes:
      where: the spec without its kind, with "{split}" replaced.
      split: "train", "validation" or another split that the source has.
      captions_required: False: records without a caption are included, caption "".
    """

    where: str
    split: str
    captions_required: bool


@runtime_checkable
class SourceKind(Protocol):
    """A module of `data/kinds/`."""

    FORMS: tuple[str, ...]

    def open_source(self, place: Place) -> schema.Source:
        """Opens a source; raises UserError if the place is not of this kind."""
        ...


@functools.cache
def names() -> tuple[str, ...]:
    """The names of all kinds, in alphabetical order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(kinds.__path__)))


def load(name: str) -> SourceKind:
    """Imports a kind, one of `names`."""
    return cast(SourceKind, importlib.import_module(f"{kinds.__name__}.{name}"))


def forms() -> str:
    """The specs of all kinds, e.g. "csv:FILE.csv, ..., webdataset:GLOB_OR_DIR"."""
    return ", ".join(form for name in names() for form in load(name).FORMS)


def is_spec(text: str) -> bool:
    """Whether a text starts with a kind of source and a colon."""
    kind, colon, _ = text.partition(":")
    return bool(colon) and kind in names()
