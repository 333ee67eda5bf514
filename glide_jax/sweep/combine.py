"""How are the overrides of many runs written down in a few lines?

Overrides are what one run has otherwise than the others: {"seed": 3}. All functions
return a list of them, one for each run, and take such lists to combine.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from glide_jax.errors import UserError

Overrides = dict[str, Any]


def listed(key: str, values: Iterable[Any]) -> list[Overrides]:
    """One run for each value of a key."""
    return [{key: value} for value in values]


def seeds(count: int) -> list[Overrides]:
    """The seeds from 0 to count - 1; plots draw their mean."""
    return listed("seed", range(count))


def product(*parts: Sequence[Mapping[str, Any]]) -> list[Overrides]:
    """Every combination of the parts' runs; the last part changes fastest.

    Raises:
      UserError: two parts set the same key.
    """
    return [_merged("product", runs) for runs in itertools.product(*parts)]


def zipped(*parts: Sequence[Mapping[str, Any]]) -> list[Overrides]:
    """The first runs of all parts as one, the second ones, and so on.

    Raises:
      UserError: parts of different lengths, or two that set the same key.
    """
    lengths = [len(part) for part in parts]
    if len(set(lengths)) > 1:
        raise UserError(
            f"zipped() of parts of {', '.join(map(str, lengths))} runs; give all as "
            "many, or use product()"
        )
    return [_merged("zipped", runs) for runs in zip(*parts, strict=True)]


def _merged(name: str, runs: Sequence[Mapping[str, Any]]) -> Overrides:
    merged: Overrides = {}
    for overrides in runs:
        if twice := merged.keys() & overrides.keys():
            raise UserError(
                f"{name}() of two parts that both set {min(twice)!r}; leave one out"
            )
        merged |= overrides
    return merged
