"""Random weights of benchmarks."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from glide_jax import presets
from glide_jax.bench import weights
from glide_jax.models import build

CONFIG = presets.base("tiny")


@pytest.fixture(scope="module")
def params():
    return weights.random_params(CONFIG)


def test_all_weights_exist_and_almost_none_is_zero(params):
    assert jax.tree.map(np.shape, params) == jax.tree.map(
        np.shape, build.abstract_params(CONFIG)
    )
    for leaf in jax.tree.leaves(params):
        assert leaf.dtype == np.float32
        assert np.count_nonzero(leaf) == leaf.size


def test_a_seed_gives_the_same_weights_and_another_gives_others(params):
    again = weights.random_params(CONFIG)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    other = weights.random_params(CONFIG, seed=1)
    kernel = params["unet"]["stem"]["kernel"]
    assert not np.array_equal(kernel, other["unet"]["stem"]["kernel"])


def test_kernels_keep_the_variance_of_their_input(params):
    block = params["unet"]["middle"]["res"]
    for kernel in (block["conv_in"]["kernel"], block["embedding"]["kernel"]):
        fan_in = np.prod(kernel.shape[:-1])
        # 48 * 9 * 48 and 64 * 96 draws: the deviation is known to 1%.
        np.testing.assert_allclose(np.std(kernel) * fan_in**0.5, 1, atol=0.05)
