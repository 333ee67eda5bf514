"""Refuses a flag that is given twice, as absl would use the last value silently."""

from __future__ import annotations

from collections.abc import Iterator

from absl import flags

from glide_jax.errors import UserError


def refuse(values: flags.FlagValues, argv: list[str]) -> None:
    """Looks for flags and settings that occur twice in a command line.

    Flags that are defined as repeatable, such as --prompt, are left out.

    Args:
      values: the defined flags; nothing is parsed yet.
      argv: the name of the program, and the words after it.

    Raises:
      UserError: a flag or a setting is given twice; the line has both values.
    """
    seen: dict[str, str] = {}
    for name, value in _read(values, argv):
        if name in seen:
            raise UserError(
                f"--{name} is given twice, as {seen[name]!r} and {value!r}; "
                "leave one of them out"
            )
        seen[name] = value


def _read(values: flags.FlagValues, argv: list[str]) -> Iterator[tuple[str, str]]:
    """Name and value of each flag that may occur once, as absl splits the words."""
    words = iter(argv[1:])
    for word in words:
        if word == "--":
            return
        if not word.startswith("-"):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        section = name.partition(".")[0]
        if section not in values and section.removeprefix("no") in values:
            name, equals, value = name.removeprefix("no"), "=", "False"
        section, dot, _ = name.partition(".")
        if section not in values:
            continue  # absl names it
        flag = values[section]
        if not equals:
            # Settings are no flags yet: a switch among them is taken for one with a
            # value where another word follows.
            value = "True" if flag.boolean and not dot else next(words, "True")
        if dot:
            yield name, value
        elif not isinstance(flag, flags.MultiFlag):
            yield flag.name, value
