"""Which record stands at which position of the endless training stream.

Position p = step * global_batch_size + row. The answer depends on (seed, p) and the
source alone, so nothing but the step needs storing, and any number of processes that
share out the positions sees the same stream.
"""

from __future__ import annotations

import functools

import numpy as np
from grain import experimental

from glide_jax.data import mixture, schema
from glide_jax.runtime import random_streams


@functools.lru_cache(maxsize=256)
def _epoch_seed(seed: int, part: int, epoch: int) -> int:
    """32 bits for the permutation of one epoch of one part of a mixture."""
    entropy = np.random.SeedSequence((seed, random_streams.ORDER, part, epoch))
    return int(entropy.generate_state(1)[0])


def permuted(seed: int, part: int, count: int, length: int) -> int:
    """Record of the `count`-th draw from a source of `length`: an epoch permutation.

    Every epoch of `length` draws visits each record once. The permutation is computed
    (a keyed Feistel network), not stored, so a billion records cost no memory.
    """
    epoch, index = divmod(count, length)
    return experimental.index_shuffle(
        index, max_index=length - 1, seed=_epoch_seed(seed, part, epoch), rounds=4
    )


def record_at(source: schema.Source, seed: int, position: int) -> int:
    """Index of the record at `position` of the stream."""
    if not isinstance(source, mixture.Mixture):
        return permuted(seed, 0, position, len(source))
    part, count = source.part_at(seed, position)
    return source.starts[part] + permuted(seed, part, count, len(source.parts[part]))


def replacement_at(
    source: schema.Source, seed: int, position: int, attempt: int
) -> int:
    """Index of the record drawn when the one at `position` cannot be used."""
    rng = random_streams.generator(seed, random_streams.REPLACEMENT, position, attempt)
    return int(rng.integers(len(source)))
