"""Keyed randomness of the data: one numpy generator per (seed, stream, keys)."""

from __future__ import annotations

import numpy as np

# Separate streams, so that e.g. masks never correlate with the order of records.
(
    ORDER,
    MIXTURE,
    REPLACEMENT,
    FLIP,
    CORRUPTION,
    MASK,
    CAPTION,
) = range(7)


def generator(seed: int, stream: int, *keys: int) -> np.random.Generator:
    """A fresh generator keyed by (seed, stream, keys), all of them non-negative."""
    return np.random.default_rng((seed, stream, *keys))
