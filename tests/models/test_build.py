"""Sizes of every model, and properties of the noised CLIP's functions."""

import dataclasses

import jax
import numpy as np
import pytest

from glide_jax import presets
from glide_jax.models import build, noised_clip
from tests.models import golden_models


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (presets.base("released"), 385_030_726),
        (presets.base("released", inpaint=True), 385_037_638),
        (presets.upsampler("released"), 398_361_286),
        (presets.upsampler("released", inpaint=True), 398_368_198),
        (presets.base("paper"), 3_554_414_086),
        (presets.upsampler("paper"), 1_540_932_998),
    ],
)
def test_published_sizes_have_the_published_parameter_counts(config, expected):
    params = build.abstract_params(config)
    assert build.parameter_count(params) == expected
    assert sum(build.parameters_by_part(params).values()) == expected


def test_the_released_clip_has_the_released_parameter_counts():
    parts = build.parameters_by_part(
        build.abstract_params(presets.noised_clip("released"))
    )
    # The released files hold no logit scale.
    assert parts == {"image": 86_443_776, "text": 71_679_488, "logit_scale": 1}


def test_all_parameters_are_float32():
    for config in (presets.base("released"), presets.noised_clip("released")):
        leaves = jax.tree.leaves(build.abstract_params(config))
        assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


def test_the_logit_scale_starts_at_clips_value_and_is_at_most_100():
    fns = build.make_clip(golden_models.CLIP)
    params = fns.init(jax.random.key(0))
    assert float(fns.logit_scale(params)) == pytest.approx(1 / 0.07, rel=1e-5)
    grown = {**params, "logit_scale": np.float32(9.0)}
    assert float(fns.logit_scale(grown)) == 100.0


def test_padding_tokens_do_not_change_caption_features():
    fns = build.make_clip(golden_models.CLIP)
    encode = jax.jit(fns.encode_text)
    tokens = np.arange(24, dtype=np.int32).reshape(2, 12)
    text_mask = np.arange(12) < np.array([[3], [12]])
    params = golden_models.clip_params()
    before = encode(params, tokens, text_mask)
    after = encode(params, np.where(text_mask, tokens, 50), text_mask)
    np.testing.assert_array_equal(before, after)


def test_an_empty_caption_uses_its_first_position():
    fns = build.make_clip(golden_models.CLIP)
    encode = jax.jit(fns.encode_text)
    tokens = np.zeros((1, 12), np.int32)
    params = golden_models.clip_params()
    empty = encode(params, tokens, np.zeros((1, 12), bool))
    one = encode(params, tokens, np.arange(12)[None] < 1)
    np.testing.assert_array_equal(empty, one)


def test_half_precision_clip_returns_float32():
    config = dataclasses.replace(golden_models.CLIP, compute_dtype="bfloat16")
    params, x_t = golden_models.clip_params(), golden_models.inputs("x16")
    timesteps = golden_models.inputs("timesteps", np.int32)
    half = build.make_clip(config).encode_image(params, x_t, timesteps)
    assert half.dtype == np.float32
    expected = golden_models.arrays()["clip/image_features"]
    # bfloat16 keeps 8 bits, 0.4% a layer.
    assert golden_models.error(half, expected) < 0.05


def test_similarity_is_a_cosine():
    first = np.array([[3.0, 0.0], [1.0, 1.0]], np.float32)
    second = np.array([[5.0, 0.0], [-2.0, -2.0]], np.float32)
    cosine = noised_clip.similarity(first, second)
    np.testing.assert_allclose(cosine, [1, -1], atol=1e-6)
