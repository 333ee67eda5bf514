"""Mixes several sources in fixed shares, as a function of (seed, position)."""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from glide_jax.data import schema
from glide_jax.errors import UserError
from glide_jax.runtime import random_streams

# Positions of a block; shares are exact in every block, to 1/BLOCK.
BLOCK = 1000


@functools.lru_cache(maxsize=64)
def _block_layout(
    counts: tuple[int, ...], seed: int, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the part of each slot of a block, and its earlier occurrences there."""
    slots = np.repeat(np.arange(len(counts)), counts)
    random_streams.generator(seed, random_streams.MIXTURE, block).shuffle(slots)
    ranks = np.empty(BLOCK, np.int64)
    for part, count in enumerate(counts):
        ranks[slots == part] = np.arange(count)
    return slots, ranks


class Mixture:
    """The concatenation of sources; `part_at` is the weighted stream.

    Attributes:
      parts: the sources.
      starts: index in the mixture of each part's first record.
    """

    def __init__(
        self, parts: tuple[schema.Source, ...], weights: tuple[float, ...]
    ) -> None:
        _check(parts, weights)
        self.parts = parts
        self.weights = weights
        ends = list(itertools.accumulate(len(part) for part in parts))
        self.starts = [0, *ends[:-1]]
        self._length = ends[-1]
        self._counts = _block_counts(weights)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> schema.Example:
        if not 0 <= index < self._length:
            raise IndexError(f"record {index} of {self!r}")
        part = self.part_of(index)
        return self.parts[part][index - self.starts[part]]

    def __repr__(self) -> str:
        pairs = zip(self.parts, self.weights, strict=True)
        return f"Mixture({', '.join(f'{w:g} x {p!r}' for p, w in pairs)})"

    def part_of(self, index: int) -> int:
        """Returns the part with a record."""
        return bisect.bisect_right(self.starts, index) - 1

    def at_px(self, px: int) -> Mixture:
        """Returns the same mixture with its `Drawable` parts at (px, px)."""
        parts = tuple(
            part.at_px(px) if isinstance(part, schema.Drawable) else part
            for part in self.parts
        )
        return Mixture(parts, self.weights)

    @contextlib.contextmanager
    def ahead(self, indices: Iterable[int]) -> Iterator[None]:
        """Announces records to the parts that they are in; see `schema.ahead`."""
        of_part: dict[int, list[int]] = {}
        for index in indices:
            part = self.part_of(index)
            of_part.setdefault(part, []).append(index - self.starts[part])
        with contextlib.ExitStack() as stack:
            for part, own in of_part.items():
                stack.enter_context(schema.ahead(self.parts[part], own))
            yield

    def part_at(self, seed: int, position: int) -> tuple[int, int]:
        """Returns the part at a position of the stream, and its earlier occurrences."""
        block, slot = divmod(position, BLOCK)
        slots, ranks = _block_layout(self._counts, seed, block)
        part = int(slots[slot])
        return part, block * self._counts[part] + int(ranks[slot])


def _block_counts(weights: tuple[float, ...]) -> tuple[int, ...]:
    """Returns positive integers in the ratio of the weights that sum to BLOCK."""
    exact = np.array(weights, np.float64) / sum(weights) * BLOCK
    counts = np.maximum(np.floor(exact).astype(int), 1)
    # Largest remainders first; a surplus from the minimum of 1 reduces the largest.
    for part in np.argsort(counts - exact, kind="stable")[
        : max(0, BLOCK - sum(counts))
    ]:
        counts[part] += 1
    counts[np.argmax(counts)] += BLOCK - counts.sum()
    return tuple(int(count) for count in counts)


def _check(parts: tuple[schema.Source, ...], weights: tuple[float, ...]) -> None:
    if not parts or len(parts) != len(weights):
        raise UserError(
            f"data.sources has {len(parts)} sources and data.weights {len(weights)}"
            " numbers; give one weight for each of one or more sources"
        )
    if not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise UserError(
            f"data.weights={weights} are not all positive; omit a source of weight 0"
        )
    if sum(weights) > BLOCK * min(weights):
        raise UserError(
            f"data.weights={weights} contains a share below 1/{BLOCK}; omit that source"
        )
