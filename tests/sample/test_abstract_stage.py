"""A stage with abstract arguments is the stage that `cascade.Glide` runs."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from glide_jax.config import defaults, resolve
from glide_jax.errors import UserError
from glide_jax.parallel import device_mesh
from glide_jax.sample import (
    abstract_stage,
    cascade,
    request,
    restore,
    segments,
    stage_inputs,
)

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
PROMPTS = ["a big r circle", "a small g circle", "a small b circle"]


@pytest.fixture(scope="module")
def mesh():
    return device_mesh.make_mesh(defaults.MeshConfig(), jax.devices()[:1])


def described(tree):
    """The shape and dtype of each array by its path."""
    return {
        jax.tree_util.keystr(path): (leaf.shape, leaf.dtype)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize("mode", ["none", "cfg", "clip", "cfg+clip"])
def test_the_inputs_are_those_of_a_base_model(models, mesh, mode):
    clip = models["clip"] if "clip" in mode else None
    run = request.SamplingRequest(
        (models["base"], None, clip), PROMPTS, 1, {"guidance_mode": mode}
    )
    inputs = run.base_inputs(np.arange(3), {})
    config = models["base"].config
    settings = abstract_stage.make_settings(
        config, mode, clip=None if clip is None else clip.config
    )
    assert settings == run.base.static
    made = abstract_stage.make_stage(
        config, settings, mesh, 3, None if clip is None else clip.config
    )
    inputs = inputs._replace(**padded(inputs, made.batch_size))
    inputs = stage_inputs.with_array_scalars(inputs)
    assert described(made.inputs) == described(inputs)


def padded(inputs, rows):
    """The arrays of `inputs` with one row for each image, in `rows` rows."""
    return {
        name: jax.tree.map(lambda x: x[np.arange(rows) % len(x)], getattr(inputs, name))
        for name in inputs._fields
        if name not in stage_inputs.SHARED
    }


@pytest.mark.parametrize("name", ["upsampler", "upsampler_inpaint"])
def test_the_inputs_are_those_of_an_upsampler(models, mesh, name):
    model, fills = models[name], name == "upsampler_inpaint"
    run = request.SamplingRequest((None, model, None), PROMPTS, 1, {}, fills=fills)
    conditions = {}
    if fills:
        conditions["inpaint_image"] = np.zeros((3, 16, 16, 3), np.float32)
        conditions["inpaint_mask"] = np.zeros((3, 16, 16, 1), np.float32)
    inputs = run.upsampler_inputs(np.arange(3), PICTURES, conditions)
    settings = abstract_stage.make_settings(
        model.config, "none", "pinned" if fills else None
    )
    assert settings == run.upsampler.static
    made = abstract_stage.make_stage(model.config, settings, mesh, 4)
    inputs = inputs._replace(**padded(inputs, made.batch_size))
    inputs = stage_inputs.with_array_scalars(inputs)
    assert described(made.inputs) == described(inputs)


def test_the_parameters_are_those_of_a_loaded_bundle(models, bundles, mesh):
    loaded = restore.load_bundle(bundles["base"], mesh=mesh, compute_dtype="bfloat16")
    config = resolve.override(
        models["base"].config, {"model.compute_dtype": "bfloat16"}
    )
    settings = abstract_stage.make_settings(config, "none")
    made = abstract_stage.make_stage(config, settings, mesh, 1)
    assert described(made.params) == described(loaded.params)
    places = jax.tree.map(lambda leaf: leaf.sharding, made.params)
    assert places == jax.tree.map(lambda leaf: leaf.sharding, loaded.params)


def test_what_is_compiled_from_abstract_arguments_draws_the_same(models, mesh):
    base = models["base"]
    base = dataclasses.replace(
        base,
        params=jax.device_put(
            base.params, restore.place(base.params, base.config, mesh)
        ),
        fns=restore.make_fns(base.config, mesh),
    )
    glide = cascade.Glide(base, mesh=mesh)
    drawn = glide.sample(PROMPTS[:2])
    settings = abstract_stage.make_settings(base.config, "cfg")
    made = abstract_stage.make_stage(base.config, settings, mesh, 2)
    parts = made.stage.compile_parts(made.params, None, made.inputs)
    glide._stages = {(True, settings): segments.Stage(parts, made.stage.num_segments)}
    np.testing.assert_array_equal(glide.sample(PROMPTS[:2]).images, drawn.images)


def test_a_batch_has_the_default_size_at_most(models, mesh):
    config = models["base"].config
    settings = abstract_stage.make_settings(config, "none")
    sizes = {
        asked: abstract_stage.make_stage(config, settings, mesh, asked).batch_size
        for asked in (1, 3, 30_000)
    }
    assert sizes == {1: 1, 3: 4, 30_000: 16}


@pytest.mark.parametrize(
    ("name", "mode", "inpaint_mode", "clip", "named"),
    [
        ("upsampler", "cfg", None, None, "is an upsampler; leave it out"),
        ("base", "clip", None, None, "needs a noised CLIP"),
        ("base", "cfg", None, "clip", "reads no CLIP"),
        ("base", "clip", None, "upsampler", "is not a noised CLIP"),
        ("base", "cfg", "pinned", None, "takes no inpainting mask"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    models, name, mode, inpaint_mode, clip, named
):
    guide = None if clip is None else models[clip].config
    with pytest.raises(UserError, match=named):
        abstract_stage.make_settings(models[name].config, mode, inpaint_mode, guide)
