"""A draw belongs to (seed, stream, step, row) and to nothing else."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.parallel import device_mesh
from glide_jax.runtime import random_streams
from glide_jax.train import placement
from tests.train import small_runs


def bits(seed=0, stream="noise", step=3, rows=(0, 1, 2, 3)) -> np.ndarray:
    rows = jnp.array(rows, jnp.int32)
    keys = random_streams.example_keys(seed, stream, jnp.int32(step), rows)
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
            bits(stream=name) for name in random_streams.STREAMS if name != "noise"
        ),
    ]
    assert len({tuple(key) for key in keys}) == len(keys)


def test_each_stream_of_a_validation_batch_has_keys_of_its_own():
    rows = jnp.arange(4)
    keys = [
        tuple(key)
        for name in random_streams.STREAMS
        for key in np.asarray(
            jax.random.key_data(random_streams.validation_keys(0, name, rows))
        )
    ]
    assert len(set(keys)) == len(keys)


def test_streams_keep_their_numbers():
    # A renumbered stream would silently change what a resumed run draws.
    assert random_streams.STREAMS == {
        "init": 0,
        "caption_drop": 1,
        "timestep": 2,
        "noise": 3,
        "dropout": 4,
        "validation": 5,
        "guidance_scale": 6,
        "earlier_timestep": 7,
        "posterior_noise": 8,
    }


@pytest.mark.parametrize("model", [small_runs.TEXT2IM, small_runs.CLIP])
def test_the_step_of_every_seed_is_one_program_with_other_draws(model):
    """A sweep over seeds compiles once: no seed is a constant of the program."""
    config = small_runs.make_config(pathlib.Path("unread"), model)
    mesh = device_mesh.make_mesh(config.mesh)

    def text_of(seed):
        parts = placement.abstract_step(dataclasses.replace(config, seed=seed), mesh)
        return parts.step.lower(*parts.arguments).as_text()

    assert text_of(0) == text_of(1)


def test_a_traced_seed_draws_what_a_constant_one_draws():
    rows = jnp.arange(4, dtype=jnp.int32)
    draw = jax.jit(lambda seed: random_streams.example_keys(seed, "noise", 3, rows))
    for seed in (0, 1, 2**31 - 1):
        drawn = jax.random.key_data(draw(jnp.int32(seed)))
        np.testing.assert_array_equal(drawn, bits(seed=seed))


def test_streams_of_images_keep_their_numbers():
    # Other numbers would silently change the noise of every image.
    assert (random_streams.BASE_STAGE, random_streams.UPSAMPLER_STAGE) == (0, 1)
    assert random_streams.INITIAL_NOISE == 2**31 - 1
    assert random_streams.KNOWN_NOISE == 2**31 - 2
    keys = random_streams.image_keys(3, np.array([5]), random_streams.UPSAMPLER_STAGE)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 5), 1)
    np.testing.assert_array_equal(*map(jax.random.key_data, (keys[0], key)))
