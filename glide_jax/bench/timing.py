"""Times a compiled program."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

MIN_REPEATS = 5  # a median of fewer runs is unreliable


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum of several runs, seconds."""

    median: float
    min: float
    max: float

    def per(self, count: int) -> Spread:
        """Returns the times of one of `count` equal parts."""
        return Spread(self.median / count, self.min / count, self.max / count)

    def to_json(self) -> dict[str, float]:
        """Returns the fields as JSON values, rounded to four digits."""
        return {name: rounded(x) for name, x in dataclasses.asdict(self).items()}


def spread(seconds: Sequence[float]) -> Spread:
    """Returns median, minimum and maximum of a list of times."""
    return Spread(statistics.median(seconds), min(seconds), max(seconds))


def rounded(value: float) -> float:
    """Rounds to four significant digits."""
    return float(f"{value:.4g}")


def compile_program(
    function: Callable[..., Any], *arguments: Any
) -> tuple[Callable[..., Any], float]:
    """Compiles a function for its arguments; returns it and the seconds taken."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return program, time.perf_counter() - start


def time_calls(
    program: Callable[..., Any], *arguments: Any, repeats: int
) -> list[float]:
    """Returns the seconds of each of `repeats` runs, after one untimed run."""
    jax.block_until_ready(program(*arguments))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        seconds.append(time.perf_counter() - start)
    return seconds
