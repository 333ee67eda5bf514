"""The map between released tensor names and our parameter tree."""

import functools
import hashlib
import re

import jax
import ml_dtypes
import numpy as np
import pytest

from glide_jax import presets
from glide_jax.convert import names, torch_glide
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


@pytest.mark.parametrize("kind", names.KINDS)
def test_state_dict_round_trip_is_exact(kind):
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


@pytest.mark.parametrize("kind", names.KINDS)
def test_released_sizes_have_exactly_the_released_names_and_shapes(kind):
    config, count, digest = RELEASED[kind]
    shapes = torch_glide.torch_shapes(kind, config)
    assert len(shapes) == count
    # Digest of the released files' sorted "name shape" lines.
    lines = "\n".join(f"{name} {shape}" for name, shape in sorted(shapes.items()))
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == digest


def test_missing_unknown_and_misshapen_tensors_are_named():
    tensors = golden_models.state_dict("base")
    del tensors["out.2.bias"]
    tensors["label_emb.weight"] = np.zeros((2, 2), np.float32)
    tensors["time_embed.0.bias"] = np.zeros(7, np.float32)
    with pytest.raises(UserError) as caught:
        torch_glide.from_torch("base", golden_models.BASE, tensors)
    message = str(caught.value)
    assert "1 missing: out.2.bias;" in message
    assert "1 unknown: label_emb.weight;" in message
    assert "1 of another shape: time_embed.0.bias (7,) instead of (128,);" in message


def test_a_long_list_of_wrong_tensors_shows_three_and_the_count():
    with pytest.raises(UserError) as caught:
        torch_glide.from_torch("base", golden_models.BASE, {})
    message = str(caught.value)
    total = len(golden_models.state_dict("base"))
    assert f"; {total} missing: token_embedding.weight, " in message
    assert f" and {total - 3} more;" in message
    assert message.count(", ") == 2


def test_a_name_with_line_ends_is_quoted():
    tensors = {"a\nb": np.zeros(1, np.float32)}
    with pytest.raises(UserError, match=r"1 unknown: 'a\\nb'"):
        torch_glide.from_torch("base", golden_models.BASE, tensors)


def test_parameters_that_are_not_the_models_are_named():
    params = dict(golden_models.params("clip-text"))
    params["token_embedding"] = params["token_embedding"][:-1]
    params["more"] = params.pop("positional_embedding")
    with pytest.raises(UserError) as caught:
        torch_glide.to_torch("clip-text", golden_models.CLIP, params)
    message = str(caught.value)
    assert "1 missing: positional_embedding;" in message
    assert "1 unknown: more;" in message
    assert (
        "1 of another shape: token_embedding (96, 32) instead of (97, 32);" in message
    )


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
def test_a_kind_that_does_not_fit_the_model_is_an_error(kind, config):
    with pytest.raises(UserError, match="kind"):
        torch_glide.from_torch(kind, config, {})


@pytest.mark.parametrize("kind", ["upsample-inpaint", "clip-image", "clip-text"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_round_trip_is_exact(kind, dtype):
    config = golden_models.CONFIGS[kind]
    tensors = {k: v.astype(dtype) for k, v in golden_models.state_dict(kind).items()}
    params = torch_glide.from_torch(kind, config, tensors)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(dtype)}
    back = torch_glide.to_torch(kind, config, params)
    for name, tensor in tensors.items():
        assert back[name].dtype == dtype
        # As integers: equal values may differ in their bits (0 and -0).
        np.testing.assert_array_equal(
            np.ascontiguousarray(back[name]).view(np.int16), tensor.view(np.int16)
        )


def test_tensors_keep_their_dtypes():
    tensors = golden_models.state_dict("clip-text")
    tensors["blocks.input.w_voc"] = tensors["blocks.input.w_voc"].astype(np.float16)
    params = torch_glide.from_torch("clip-text", golden_models.CLIP, tensors)
    assert params["token_embedding"].dtype == np.float16
    assert params["positional_embedding"].dtype == np.float32


def test_unsupported_dtypes_are_named():
    tensors = golden_models.state_dict("clip-text")
    tensors["blocks.input.w_pos"] = tensors["blocks.input.w_pos"].astype(np.int64)
    # Layers lie in one array: this one's type would change.
    name = "blocks.block_1.f_mlp.ln.g"
    tensors[name] = tensors[name].astype(np.float16)
    with pytest.raises(UserError) as caught:
        torch_glide.from_torch("clip-text", golden_models.CLIP, tensors)
    message = str(caught.value)
    assert "2 of another dtype: blocks.input.w_pos int64, " in message
    assert f"{name} float16 beside float32 layers;" in message


PAPER = {
    "base": (presets.base("paper"), 24, 3_554_414_086),
    "upsample-inpaint": (presets.upsampler("paper", inpaint=True), 16, None),
    "clip-image": (presets.noised_clip("paper"), 24, None),
    "clip-text": (presets.noised_clip("paper"), 12, None),
}


@pytest.mark.parametrize("kind", PAPER)
def test_a_tree_of_the_papers_size_has_the_released_names(kind):
    config, num_layers, num_parameters = PAPER[kind]
    params = build.abstract_params(config)
    if kind.startswith("clip-"):
        params = params[kind.removeprefix("clip-")]
    convert = functools.partial(torch_glide.to_torch, kind, config)
    tensors = jax.eval_shape(convert, params)
    if num_parameters is not None:  # published
        assert build.parameter_count(tensors) == num_parameters
    # The same names as in the release, but for the number of stacked layers.
    layer = re.compile(r"(resblocks\.|block_)(\d+)\.")
    assert {layer.sub(r"\1N.", name) for name in tensors} == {
        layer.sub(r"\1N.", name)
        for name in torch_glide.torch_shapes(kind, RELEASED[kind][0])
    }
    assert {int(found[2]) for name in tensors if (found := layer.search(name))} == (
        set(range(num_layers))
    )
