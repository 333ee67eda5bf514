"""Flags of a verb by their kind, a line each."""

from __future__ import annotations

from absl import flags


class Define:
    """Defines flags in one set of values; without a default a flag is None."""

    def __init__(self, values: flags.FlagValues):
        self._values = {"flag_values": values}

    def text(self, name: str, meaning: str, default: str | None = None) -> None:
        """A text."""
        flags.DEFINE_string(name, default, meaning, **self._values)

    def texts(self, name: str, meaning: str) -> None:
        """A text that may be given again."""
        flags.DEFINE_multi_string(name, None, meaning, **self._values)

    def number(self, name: str, meaning: str, default: float | None = None) -> None:
        """A number."""
        flags.DEFINE_float(name, default, meaning, **self._values)

    def numbers(self, name: str, meaning: str) -> None:
        """Several, with commas between them; see `sampling.read_numbers`."""
        flags.DEFINE_list(name, None, meaning, **self._values)

    def whole(
        self,
        name: str,
        meaning: str,
        default: int | None = None,
        least: int | None = None,
    ) -> None:
        """A whole number, refused below `least`."""
        flags.DEFINE_integer(name, default, meaning, lower_bound=least, **self._values)

    def choice(
        self, name: str, names: list[str], meaning: str, default: str | None = None
    ) -> None:
        """One of a few names."""
        flags.DEFINE_enum(name, default, names, meaning, **self._values)

    def switch(self, name: str, meaning: str, default: bool | None = None) -> None:
        """--name or --noname."""
        flags.DEFINE_bool(name, default, meaning, **self._values)
