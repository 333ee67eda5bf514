"""Bundles come back as the models that were written."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax import errors
from glide_jax.config import resolve
from glide_jax.models import attention_kernels, build
from glide_jax.sample import cascade, restore
from tests.sample import conftest


@pytest.mark.parametrize("name", ["base", "upsampler_inpaint", "clip"])
def test_a_bundle_comes_back_as_its_model(models, bundles, name):
    loaded = restore.load_bundle(str(bundles[name]))
    assert loaded.config == models[name].config
    assert loaded.tokenizer.digest() == models[name].tokenizer.digest()
    jax.tree.map(np.testing.assert_array_equal, loaded.params, models[name].params)


def test_a_loaded_model_attends_as_suits_this_machine(models, bundles):
    upsampler = models["upsampler"]
    described = jax.eval_shape(lambda: upsampler.params)

    def program(fns):
        caption = jnp.zeros((64, 8), jnp.int32)
        text = fns.encode(upsampler.params, caption, caption > 0)
        # 64 pictures of 256 queries: enough for a CPU's own program.
        x_t = jnp.zeros((64, 16, 16, 3))
        timesteps = jnp.zeros((64,), jnp.int32)
        return str(jax.make_jaxpr(fns.denoise)(described, x_t, timesteps, text))

    loaded = restore.load_bundle(bundles["upsampler"])
    fitting = build.make_denoiser(
        upsampler.config.model, attention=attention_kernels.attend
    )
    assert program(loaded.fns) == program(fitting)
    assert program(loaded.fns) != program(upsampler.fns)


def test_a_bundle_of_a_residual_upsampler_adds_the_small_picture(models, tmp_path):
    plain = models["upsampler"]
    config = resolve.override(
        plain.config, {"diffusion.prediction": "x", "model.residual_low_res": True}
    )
    zeros = jax.tree.map(np.zeros_like, plain.params)
    model = dataclasses.replace(plain, config=config, params=zeros)
    fns = restore.load_bundle(conftest.write_bundle(tmp_path / "b", model)).fns
    caption = jnp.zeros((1, 8), jnp.int32)
    text = fns.encode(zeros, caption, caption > 0)
    low_res = jnp.full((1, config.model.low_res_px, config.model.low_res_px, 3), 0.25)
    x_t, timesteps = jnp.ones((1, 16, 16, 3)), jnp.zeros((1,), jnp.int32)
    output = fns.denoise(zeros, x_t, timesteps, text, low_res=low_res)
    np.testing.assert_allclose(output[..., :3], 0.25, atol=1e-6)
    np.testing.assert_array_equal(output[..., 3:], 0)


def test_weights_stored_in_half_precision_come_back_as_float32(models, tmp_path):
    folder = conftest.write_bundle(tmp_path / "b", models["base"], dtype="bfloat16")
    params = restore.load_bundle(folder).params
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}


def test_matrices_stay_in_half_precision_where_asked_and_draw_the_same(
    models, tmp_path
):
    folder = conftest.write_bundle(tmp_path / "b", models["base"], dtype="bfloat16")
    whole, half = (
        restore.load_bundle(folder, param_dtype=dtype)
        for dtype in ("float32", "bfloat16")
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(half.params):
        is_matrix = path[-1].key == "kernel"
        assert leaf.dtype == ("bfloat16" if is_matrix else "float32"), path
    pictures = [
        cascade.Glide(model).sample(["a big r circle"] * 2).base_images.astype(int)
        for model in (whole, half)
    ]
    # The same numbers from the same weights; the cast may be compiled differently.
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_a_clips_temperature_is_not_rounded(models, tmp_path):
    folder = conftest.write_bundle(tmp_path / "b", models["clip"], dtype="float32")
    params = restore.load_bundle(folder, param_dtype="bfloat16").params
    assert params["logit_scale"] == models["clip"].params["logit_scale"]
    assert params["text"]["output"]["kernel"].dtype == "bfloat16"


def test_weights_that_contradict_the_configuration_are_named(models, tmp_path):
    base = models["base"]
    size = dataclasses.replace(base.config.model, text_width=64)
    config = dataclasses.replace(base.config, model=size)
    wrong = dataclasses.replace(base, config=config)
    folder = conftest.write_bundle(tmp_path / "b", wrong)
    with pytest.raises(errors.UserError, match=r"tensor text/.* has shape"):
        restore.load_bundle(folder)


def test_a_folder_that_is_no_bundle_is_refused_by_name(tmp_path):
    with pytest.raises(errors.UserError, match="is not a bundle"):
        restore.load_bundle(tmp_path)


def test_the_digest_names_the_content(models, bundles, tmp_path):
    again = conftest.write_bundle(tmp_path / "again", models["base"])
    assert restore.bundle_digest(again) == restore.bundle_digest(bundles["base"])
    other = restore.bundle_digest(bundles["base_inpaint"])
    assert other != restore.bundle_digest(again)
