"""Maps positions of the infinite training stream to records.

Position p = step * global_batch_size + row. The record is a function of (seed, p) and
the source, so a checkpoint stores only the step, and the stream does not depend on the
number of processes.
"""

from __future__ import annotations

import functools

import numpy as np
from grain import experimental

from glide_jax.data import mixture, schema
from glide_jax.runtime import random_streams


@functools.lru_cache(maxsize=256)
def _epoch_seed(seed: int, part: int, epoch: int) -> int:
    """Returns 32 bits that seed the permutation of one epoch of a mixture's part."""
    entropy = np.random.SeedSequence((seed, random_streams.ORDER, part, epoch))
    return int(entropy.generate_state(1)[0])


def permuted(seed: int, part: int, count: int, length: int) -> int:
    """Returns the record of the `count`-th draw from a source of `length` records.

    Every epoch of `length` draws visits each record once. A keyed Feistel network
    computes the permutation, which needs no memory.
    """
    epoch, index = divmod(count, length)
    return experimental.index_shuffle(
        index, max_index=length - 1, seed=_epoch_seed(seed, part, epoch), rounds=4
    )


def record_at(source: schema.Source, seed: int, position: int) -> int:
    """Returns the index of the record at a position of the stream."""
    if not isinstance(source, mixture.Mixture):
        return permuted(seed, 0, position, len(source))
    part, count = source.part_at(seed, position)
    return source.starts[part] + permuted(seed, part, count, len(source.parts[part]))


def replacement_at(
    source: schema.Source, seed: int, position: int, attempt: int
) -> int:
    """Returns the index of the record that replaces a bad one at `position`."""
    rng = random_streams.generator(seed, random_streams.REPLACEMENT, position, attempt)
    return int(rng.integers(len(source)))
