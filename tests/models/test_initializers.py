"""Initial values of parameters."""

import functools

import jax
import numpy as np
import pytest

from glide_jax import presets
from glide_jax.models import build, initializers
from tests.models import golden_models


@functools.cache
def _params(seed):
    fns = build.make_denoiser(golden_models.BASE)
    return jax.tree.map(np.asarray, fns.init(jax.random.key(seed)))


def test_convolutions_and_biases_are_initialized_as_in_pytorch():
    conv = _params(0)["unet"]["outputs_0"]["res"]["conv_in"]
    bound = (9 * 128) ** -0.5
    # 73728 uniform draws: their deviation is within a percent of bound / sqrt(3).
    assert conv["kernel"].std() == pytest.approx(bound / np.sqrt(3), rel=0.01)
    assert 0.99 * bound < np.abs(conv["kernel"]).max() <= bound
    assert 0.5 * bound < np.abs(conv["bias"]).max() <= bound


def test_every_residual_branch_of_the_unet_is_initially_zero():
    unet = _params(0)["unet"]
    for name, block in unet.items():
        if name.startswith(("inputs_", "middle", "outputs_")):
            assert not block["res"]["conv_out"]["kernel"].any()
        if "attention" in block:
            assert not block["attention"]["proj_out"]["kernel"].any()
    assert not unet["conv_out"]["kernel"].any()


def test_stacked_layers_are_initialized_differently():
    kernel = _params(0)["text"]["layers"]["attn_qkv"]["kernel"]
    assert kernel.shape == (2, 64, 192)
    # N(0, (0.25 / 8)^2) over 24576 draws.
    assert kernel.std() == pytest.approx(0.25 / 8, rel=0.02)
    assert abs(np.corrcoef(kernel[0].ravel(), kernel[1].ravel())[0, 1]) < 0.03


def test_no_two_random_parameters_are_the_same():
    leaves = jax.tree.leaves(_params(0))
    starts = [tuple(leaf.ravel()[:2]) for leaf in leaves if np.ptp(leaf) > 0]
    assert len(starts) > 80
    assert len(set(starts)) == len(starts)


def test_equal_keys_give_equal_parameters():
    fns = build.make_denoiser(golden_models.BASE)
    again = fns.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, _params(0), again)
    kernels = [_params(seed)["unet"]["stem"]["kernel"] for seed in (0, 1)]
    assert not np.array_equal(*kernels)


def test_large_parameters_have_the_distribution_of_small_ones(monkeypatch):
    described = {
        "normal": initializers.Distribution("normal", 2.0)(None, (64, 64)),
        "uniform": initializers.Distribution("uniform", 3.0)(None, (64, 64)),
        "constant": initializers.Distribution("constant", 4.0)(None, (3,)),
    }
    monkeypatch.setattr(initializers, "POOLED_SIZE", 100)
    alone = initializers.draw_params(jax.random.key(0), described)
    # 4096 draws: a relative error of the deviation of 1.1% and 0.7%.
    assert np.std(alone["normal"]) == pytest.approx(2.0, rel=0.05)
    assert np.std(alone["uniform"]) == pytest.approx(3.0 / np.sqrt(3), rel=0.05)
    np.testing.assert_array_equal(alone["constant"], 4.0)


def test_clip_has_the_released_initial_deviations():
    config = presets.noised_clip("tiny")
    params = build.make_clip(config).init(jax.random.key(0))
    image = jax.tree.map(np.std, params["image"])
    width, layers = config.image_width, config.image_layers
    closing = width**-0.5 / (2 * layers)
    expected = {
        "query": width**-0.5,
        "attn_proj": closing,
        "mlp_in": (2 / (4 * width)) ** 0.5,
        "mlp_out": closing,
    }
    for name, std in expected.items():
        # At least 27648 draws each.
        assert image["layers"][name]["kernel"] == pytest.approx(std, rel=0.03), name
    assert image["timestep_embedding"] == pytest.approx(width**-0.5, rel=0.03)
