"""The search ranks options that fit first, the fastest of them before others."""

from __future__ import annotations

import dataclasses

import pytest

from glide_jax import presets
from glide_jax.config import defaults
from glide_jax.models import build, flops
from glide_jax.plan import memory, search
from tests.plan import plans


@pytest.fixture(scope="module")
def crowded():
    """A run that fits a v5e only with some recomputation."""
    return plans.released(presets.base("released"), "v5e:4x4", global_batch_size=1024)


@pytest.fixture(scope="module")
def options(crowded):
    return search.rank(crowded)


def test_the_first_option_is_the_fastest_that_fits(crowded, options):
    fitting = [option.seconds for option in options if option.fits]
    assert options[0].fits
    assert fitting == sorted(fitting)
    room = crowded.topology.machine.memory_bytes
    assert options[0].bytes_per_device <= (1 - search.FREE_SHARE) * room


def test_an_options_bytes_are_those_of_its_settings(crowded, options):
    best = options[0]
    taken = crowded.with_train(**best.settings())
    state = memory.measure_state(taken.state)
    again = memory.estimate(taken, state)
    assert again.total == best.bytes_per_device


def test_without_memory_pressure_nothing_is_recomputed():
    roomy = plans.released(presets.base("released"), "v5p:4x4x4", global_batch_size=64)
    best = search.rank(roomy)[0]
    assert (best.remat, best.remat_text, best.microbatches) == (("none",), "none", 1)


def test_advice_names_settings_that_fit_or_says_that_none_do(crowded):
    assert "--config.train.remat" in search.advise(crowded)
    # 3.5B parameters with moments and an average, whole on every device of 16 GiB.
    huge = plans.released(presets.base("paper"), "v5e:4x4", global_batch_size=1024)
    assert "mesh.fsdp" in search.advise(huge)


def test_recomputed_operations_follow_the_policies():
    model = presets.base("paper")

    def again(**train):
        config = defaults.Config(model=model, train=defaults.TrainConfig(**train))
        return search.recomputed_flops(config)

    blocks = sum(flops.unet_block_flops(model))
    assert again(remat=("none",)) == 0
    assert again(remat=("dots",), remat_text="dots") == 0
    assert again(remat=("blocks",)) == pytest.approx(blocks)
    assert blocks < again(remat=("full",)) < 2 * blocks
    text = build.forward_flops(model)["text"]
    assert again(remat_text="blocks") == text


def test_the_flags_of_an_option_are_those_of_glide_train():
    option = search.Option(("full", "none"), "blocks", 2, 1, 1.0, True)
    assert option.flags() == (
        "--config.train.remat=\"('full','none')\" --config.train.remat_text=blocks "
        "--config.train.microbatches=2"
    )
    assert "('full',)" in dataclasses.replace(option, remat=("full",)).flags()
