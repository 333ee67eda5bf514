"""A draw belongs to (seed, stream, step, row) and to nothing else."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from glide_jax.train import randomness


def bits(seed=0, stream="noise", step=3, rows=(0, 1, 2, 3)) -> np.ndarray:
    rows = jnp.array(rows, jnp.int32)
    keys = randomness.example_keys(seed, stream, jnp.int32(step), rows)
    return np.asarray(jax.random.key_data(keys))


def test_a_row_draws_the_same_in_any_part_of_the_batch():
    whole = bits(rows=range(8))
    np.testing.assert_array_equal(whole[4:], bits(rows=range(4, 8)))
    np.testing.assert_array_equal(whole[[6, 1]], bits(rows=[6, 1]))


def test_seed_stream_step_and_row_each_give_another_key():
    keys = [
        *bits(),
        *bits(seed=1),
        *bits(step=4),
        *itertools.chain.from_iterable(
            bits(stream=name) for name in randomness.STREAMS if name != "noise"
        ),
    ]
    assert len({tuple(key) for key in keys}) == len(keys)


def test_streams_keep_their_numbers():
    # A renumbered stream would silently change what a resumed run draws.
    assert randomness.STREAMS == {
        "init": 0,
        "caption_drop": 1,
        "timestep": 2,
        "noise": 3,
        "dropout": 4,
        "validation": 5,
    }
