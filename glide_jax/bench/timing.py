"""How long does a compiled program take, and how sure is that?"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

MIN_REPEATS = 5  # below, a median says little


@dataclasses.dataclass(frozen=True)
class Spread:
    """Seconds: the median of several runs, with the fastest and the slowest."""

    median: float
    min: float
    max: float

    def per(self, count: int) -> Spread:
        """The same for one of `count` equal parts."""
        return Spread(self.median / count, self.min / count, self.max / count)

    def to_json(self) -> dict[str, float]:
        """By name, to four digits."""
        return {name: rounded(x) for name, x in dataclasses.asdict(self).items()}


def spread(seconds: Sequence[float]) -> Spread:
    """Median, fastest and slowest of these runs."""
    return Spread(statistics.median(seconds), min(seconds), max(seconds))


def rounded(value: float) -> float:
    """Four digits: more would be noise."""
    return float(f"{value:.4g}")


def compile_program(
    function: Callable[..., Any], *arguments: Any
) -> tuple[Callable[..., Any], float]:
    """The function compiled for these arguments, and the seconds that it took."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return program, time.perf_counter() - start


def time_calls(
    program: Callable[..., Any], *arguments: Any, repeats: int
) -> list[float]:
    """Seconds of each of `repeats` runs, after one that is not counted."""
    jax.block_until_ready(program(*arguments))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        seconds.append(time.perf_counter() - start)
    return seconds
