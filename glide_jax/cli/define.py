"""Defines the flags of a verb, one line per flag."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable

from absl import flags

from glide_jax.errors import UserError
from glide_jax.runtime import paths

# KIND:WHERE, as data sources and features are written. A URL is not one.
_KIND = re.compile(r"[a-z_0-9]+:(?!//)")


def check_installed(what: str, modules: Iterable[str], extra: str) -> None:
    """Raises UserError with the extra, unless all modules of a verb are installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{what} needs {', '.join(missing)}, not installed here; pip install "
            f'-e ".[{extra}]"'
        )


class _Path(flags.ArgumentParser):
    """Reads a path of this machine, as text with `~` expanded."""

    def __init__(self, name: str):
        self._flag = f"--{name}"

    def parse(self, argument: str) -> str:
        return paths.local_text(argument, self._flag)


class _KindOrPath(_Path):
    """Reads a path, or KIND:WHERE, which is left to the reader of that kind."""

    def parse(self, argument: str) -> str:
        return argument if _KIND.match(argument) else super().parse(argument)


class _KindAndPath(_Path):
    """Reads KIND:PATH."""

    def parse(self, argument: str) -> str:
        found = _KIND.match(argument)
        if not found or found.end() == len(argument):
            return argument  # `eval.extractors` names the kinds in its error
        return found.group() + super().parse(argument[found.end() :])


class _Renamed(flags.ArgumentParser):
    """Refuses a flag by its old name."""

    def __init__(self, name: str, new: str):
        self._line = f"--{name} is now called --{new}; use that"

    def parse(self, argument: str) -> str:
        raise UserError(self._line)


def takes_path(flag: flags.Flag) -> bool:
    """Whether a file or a folder can follow the flag."""
    return isinstance(flag.parser, _Path)


class Define:
    """Defines flags in one set of values; without a default a flag is None."""

    def __init__(self, values: flags.FlagValues) -> None:
        self._values = values

    def text(self, name: str, meaning: str, default: str | None = None) -> None:
        """A string."""
        flags.DEFINE_string(name, default, meaning, flag_values=self._values)

    def path(self, name: str, meaning: str, default: str | None = None) -> None:
        """A file or a folder of this machine; `~` is expanded and a URL is refused."""
        self._parsed(_Path(name), name, meaning, default)

    def paths(self, name: str, meaning: str) -> None:
        """A path; the flag may be repeated."""
        serializer = flags.ArgumentSerializer()
        flags.DEFINE_multi(
            _Path(name), serializer, name, None, meaning, flag_values=self._values
        )

    def path_or_source(self, name: str, meaning: str) -> None:
        """A path, or a data source such as folder:DIR."""
        self._parsed(_KindOrPath(name), name, meaning)

    def kind_and_path(self, name: str, meaning: str) -> None:
        """A kind and a path, such as clip:BUNDLE."""
        self._parsed(_KindAndPath(name), name, meaning)

    def texts(self, name: str, meaning: str) -> None:
        """A string; the flag may be repeated."""
        flags.DEFINE_multi_string(name, None, meaning, flag_values=self._values)

    def number(self, name: str, meaning: str, default: float | None = None) -> None:
        """A number."""
        flags.DEFINE_float(name, default, meaning, flag_values=self._values)

    def numbers(self, name: str, meaning: str) -> None:
        """A list with commas; see `sampling.read_numbers`."""
        flags.DEFINE_list(name, None, meaning, flag_values=self._values)

    def whole(
        self,
        name: str,
        meaning: str,
        default: int | None = None,
        least: int | None = None,
    ) -> None:
        """An integer of at least `least`."""
        flags.DEFINE_integer(
            name, default, meaning, lower_bound=least, flag_values=self._values
        )

    def choice(
        self, name: str, names: list[str], meaning: str, default: str | None = None
    ) -> None:
        """One of a few names."""
        flags.DEFINE_enum(name, default, names, meaning, flag_values=self._values)

    def switch(self, name: str, meaning: str, default: bool | None = None) -> None:
        """--name or --noname."""
        flags.DEFINE_bool(name, default, meaning, flag_values=self._values)

    def renamed(self, name: str, new: str) -> None:
        """The old name of a flag, refused with an error that names the new one."""
        flags.DEFINE(
            _Renamed(name, new),
            name,
            None,
            f"now called --{new}",
            flag_values=self._values,
        )

    def _parsed(
        self, parser: _Path, name: str, meaning: str, default: str | None = None
    ) -> None:
        # Without a serializer, a flag cannot be written back as --name=value.
        text = flags.ArgumentSerializer()
        flags.DEFINE(
            parser, name, default, meaning, serializer=text, flag_values=self._values
        )
