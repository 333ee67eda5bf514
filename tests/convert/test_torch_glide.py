"""The map between released tensor names and our parameter tree."""

import dataclasses
import hashlib

import jax
import numpy as np
import pytest

from glide_jax import presets
from glide_jax.convert import torch_glide
from glide_jax.errors import UserError
from glide_jax.models import build
from tests.models import golden_models

RELEASED = {
    "base": (presets.base("released"), 783, "5831aceada817bc8"),
    "base-inpaint": (presets.base("released", inpaint=True), 783, "de7cee242b48d2a4"),
    "upsample": (presets.upsampler("released"), 797, "6508b479e01fb271"),
    "upsample-inpaint": (
        presets.upsampler("released", inpaint=True),
        797,
        "94c9532d78eff39d",
    ),
    "clip-image": (presets.noised_clip("released"), 188, "84d9cb01ca743e72"),
    "clip-text": (presets.noised_clip("released"), 185, "f05f74c724b73694"),
}


@pytest.mark.parametrize("kind", torch_glide.KINDS)
def test_a_state_dict_survives_the_round_trip_bit_for_bit(kind):
    tensors = golden_models.state_dict(kind)
    config = golden_models.CONFIGS[kind]
    back = torch_glide.to_torch(kind, config, golden_models.params(kind))
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


@pytest.mark.parametrize("kind", ["upsample-inpaint", "clip-image"])
def test_a_converted_tree_has_the_shapes_and_dtypes_that_init_gives(kind):
    expected = build.abstract_params(golden_models.CONFIGS[kind])
    if kind.startswith("clip-"):
        expected = expected[kind.removeprefix("clip-")]
    actual = golden_models.params(kind)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for ours, want in zip(
        jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
    ):
        assert (ours.shape, ours.dtype) == (want.shape, want.dtype)


@pytest.mark.parametrize("kind", torch_glide.KINDS)
def test_released_sizes_have_exactly_the_released_names_and_shapes(kind):
    config, count, digest = RELEASED[kind]
    shapes = torch_glide.torch_shapes(kind, config)
    assert len(shapes) == count
    # Digest of the released files' sorted "name shape" lines.
    lines = "\n".join(f"{name} {shape}" for name, shape in sorted(shapes.items()))
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == digest


def test_missing_surplus_and_misshapen_tensors_are_named():
    tensors = golden_models.state_dict("base")
    del tensors["out.2.bias"]
    tensors["label_emb.weight"] = np.zeros((2, 2), np.float32)
    tensors["time_embed.0.bias"] = np.zeros(7, np.float32)
    with pytest.raises(UserError) as caught:
        torch_glide.from_torch("base", golden_models.BASE, tensors)
    message = str(caught.value)
    assert "missing: out.2.bias" in message
    assert "surplus: label_emb.weight" in message
    assert "misshapen: time_embed.0.bias (7,) instead of (128,)" in message


def test_a_long_list_of_wrong_tensors_is_cut_short_with_its_count():
    with pytest.raises(UserError, match="and 202 more"):
        torch_glide.from_torch("base", golden_models.BASE, {})


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("decoder", golden_models.BASE),
        ("upsample", golden_models.BASE),
        ("base-inpaint", golden_models.BASE),
        ("clip-text", golden_models.BASE),
        ("base", golden_models.CLIP),
    ],
)
def test_a_kind_that_does_not_fit_the_model_is_refused(kind, config):
    with pytest.raises(UserError, match="kind"):
        torch_glide.from_torch(kind, config, {})


def test_half_precision_tensors_become_float32_parameters():
    config = dataclasses.replace(golden_models.CLIP, text_layers=1)
    shapes = torch_glide.torch_shapes("clip-text", config)
    tensors = {name: np.ones(shape, np.float16) for name, shape in shapes.items()}
    params = torch_glide.from_torch("clip-text", config, tensors)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
