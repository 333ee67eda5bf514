"""Combines the overrides of many runs.

The overrides of a run are the settings or flags in which it differs from the others:
{"seed": 3}. All functions return a list of them, one for each run, and take such lists.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from glide_jax.errors import UserError

Overrides = dict[str, Any]


def listed(key: str, values: Iterable[Any]) -> list[Overrides]:
    """Returns one run for each value of a key."""
    return [{key: value} for value in values]


def seeds(count: int) -> list[Overrides]:
    """Returns runs with the seeds 0 to count - 1; plots show their mean."""
    return listed("seed", range(count))


def product(*parts: Sequence[Mapping[str, Any]]) -> list[Overrides]:
    """Returns every combination of the parts' runs; the last part changes fastest.

    Raises:
      UserError: Two parts set the same key.
    """
    return [_merged("product", runs) for runs in itertools.product(*parts)]


def zipped(*parts: Sequence[Mapping[str, Any]]) -> list[Overrides]:
    """Returns the first runs of all parts as one, the second ones, and so on.

    Raises:
      UserError: The parts have different lengths, or two of them set the same key.
    """
    lengths = [len(part) for part in parts]
    if len(set(lengths)) > 1:
        raise UserError(
            f"zipped() of parts of {', '.join(map(str, lengths))} runs; give parts of "
            "one length, or use product()"
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
