"""Defines the flags that the commands of `glide data` share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from glide_jax.cli import define
from glide_jax.errors import UserError

if TYPE_CHECKING:
    from glide_jax.data import schema


def describe_sources() -> str:
    """The help text of a flag that takes a data source."""
    from glide_jax.data import source_kinds

    return (
        f"{source_kinds.forms()}; options after a ?, e.g. "
        "folder:DIR?image=EXT&caption=EXT_OR_COLUMN&captions=random, select files and "
        "captions, see docs/inputs.md"
    )


def define_source(add: define.Define) -> None:
    """Adds --source."""
    add.text("source", describe_sources())


def check_arguments(values: flags.FlagValues, arguments: list[str]) -> None:
    """Raises UserError for arguments, and without --output."""
    if arguments:
        raise UserError(f"{arguments[0]!r} is not a flag; flags are --name=value")
    if not values.output:
        raise UserError("--output is missing, e.g. --output=runs/data")


def open_source(spec: str | None, split: str = "train") -> schema.Source:
    """Opens the source of --source.

    Raises:
      UserError: the flag is missing, or the source cannot be opened.
    """
    from glide_jax.data import sources

    if not spec:
        raise UserError("--source is missing, e.g. --source=folder:photos")
    return sources.open_source(spec, split=split)
