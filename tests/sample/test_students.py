"""Distilled students: what they draw by default, and what they refuse."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.checkpoint import bundle
from glide_jax.config import resolve
from glide_jax.convert import bundles as convert_bundles
from glide_jax.data import sources
from glide_jax.errors import UserError
from glide_jax.eval import losses
from glide_jax.models import build
from glide_jax.sample import cascade, program, program_runner
from tests.sample import conftest

PROMPT = "a big r circle"
STUDENT = {
    "diffusion.prediction": "x_and_eps",
    "train.teacher": "runs/teacher",
    "train.student_steps": 2,
    "train.loss_type": "truncated_snr",
    "train.caption_drop_prob": 0.2,
    "sample.sampler": "ddim",
    "sample.respacing": "grid2",
}


def as_student(model, **changes):
    """A student of the sizes of `model` with random weights."""
    size = dataclasses.replace(model.config.model, **changes)
    config = resolve.override(model.config, STUDENT)
    config = dataclasses.replace(config, name="student", model=size)
    fns = build.make_denoiser(size, prediction=config.diffusion.prediction)
    shapes = jax.eval_shape(fns.init, jax.random.key(0))
    params = conftest._randomise(shapes)
    return dataclasses.replace(model, config=config, fns=fns, params=params)


@pytest.fixture(scope="module")
def students(models):
    """By name: a folded base model, an upsampler, and an inpainting base model."""
    scales = {"guidance_range": (1.0, 5.0)}
    return {
        "base": as_student(models["base"], **scales),
        "upsampler": as_student(models["upsampler"], residual_low_res=True),
        "base_inpaint": as_student(models["base_inpaint"], **scales),
    }


@pytest.fixture(scope="module")
def glide(students):
    return cascade.Glide(students["base"], students["upsampler"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"respacing": "4"}, "respacing=4 does not fit"),
        ({"respacing": "grid4"}, "respacing=grid4 does not fit"),
        ({"upsampler_respacing": "fast27"}, "respacing=fast27 does not fit"),
        ({"sampler": "plms"}, "sampler=plms does not fit"),
        ({"sampler": "ddpm"}, "sampler=ddpm needs a variance"),
        ({"eta": 0.5}, "eta=0.5 has no effect"),
        ({"negative_prompt": "blue"}, "negative_prompt='blue' has no effect"),
        ({"guidance_rescale": 0.7}, "guidance_rescale=0.7 has no effect"),
        ({"guidance_scale": 7.0}, "guidance_scale=7 is outside the range .* 1 to 5"),
    ],
)
def test_options_without_effect_are_refused_by_name(glide, options, message):
    with pytest.raises(UserError, match=message) as caught:
        glide.sample(PROMPT, **options)
    assert "\n" not in str(caught.value)


def test_a_student_of_moments_draws_with_fresh_noise(students):
    base = students["base"]
    changes = {"train.student_loss": "match_moments", "sample.eta": 1.0}
    noisy = dataclasses.replace(base, config=resolve.override(base.config, changes))
    plain = cascade.Glide(base).sample(PROMPT, seed=1)
    drawn = cascade.Glide(noisy).sample(PROMPT, seed=1)
    assert (plain.settings["base"]["eta"], drawn.settings["base"]["eta"]) == (0.0, 1.0)
    assert np.any(plain.images != drawn.images)
    with pytest.raises(UserError, match="eta=0 does not fit"):
        cascade.Glide(noisy).sample(PROMPT, eta=0.0)
    with pytest.raises(UserError, match="sampler=plms does not fit"):
        cascade.Glide(noisy).sample(PROMPT, sampler="plms")


def test_several_captions_and_inversion_are_refused(glide):
    with pytest.raises(UserError, match="several captions"):
        glide.sample({PROMPT: 0.5, "a small g circle": 0.5})
    picture = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(UserError, match="too few to invert"):
        glide.edit(picture, PROMPT, source_prompts="a small g circle")


def test_guidance_makes_one_row_of_an_image(students):
    rows, base = [], students["base"]

    def denoise(params, x_t, timesteps, text, **conditions):
        rows.append((x_t.shape[0], conditions["guidance_scale"].shape))
        return base.denoiser.denoise(params, x_t, timesteps, text, **conditions)

    counted = dataclasses.replace(base, fns=base.denoiser._replace(denoise=denoise))
    models = cascade.Glide(counted)
    guided = models.sample([PROMPT] * 3, guidance_scale=4.0, batch_size=3).images
    assert set(rows) == {(3, (3,))}
    plain = models.sample([PROMPT] * 3, guidance_mode="none", batch_size=3).images
    one = models.sample([PROMPT] * 3, guidance_scale=1.0, batch_size=3).images
    np.testing.assert_array_equal(plain, one)
    assert np.any(guided != plain)
    # Outside the interval the scale is 1.
    never = models.sample(
        [PROMPT] * 3, guidance_scale=4.0, guidance_interval=(0, 1), batch_size=3
    ).images
    np.testing.assert_array_equal(never, plain)


def test_an_edit_walks_the_native_steps_and_says_how_many(glide):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    drawn = {}
    for strength, walked in ((0.5, 1), (0.9, 1), (1.0, 2)):
        out = glide.edit(picture, PROMPT, strength=strength)
        assert out.settings["steps"]["base"] == [walked, 2]
        drawn[strength] = out.images
    np.testing.assert_array_equal(drawn[0.5], drawn[0.9])
    assert np.any(drawn[0.5] != drawn[1.0])
    with pytest.raises(UserError, match=r"strength=0\.3 makes none .* at least 0\.5"):
        glide.edit(picture, PROMPT, strength=0.3)
    kept = glide.edit(picture, PROMPT, strength=0).images[0]
    np.testing.assert_array_equal(kept, picture)


def test_a_student_fills_extends_and_is_guided_by_a_clip(models, students):
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    mask = np.ones((8, 8), np.float32)
    mask[2:6, 2:6] = 0
    fill = cascade.Glide(students["base_inpaint"])
    filled = fill.inpaint(picture, mask, PROMPT).images[0]
    np.testing.assert_array_equal(filled[mask == 1], picture[mask == 1])
    wide = fill.outpaint(picture, PROMPT, (0, 0, 4, 0)).images[0]
    np.testing.assert_array_equal(wide[:, :8], picture)
    guided = cascade.Glide(students["base"], None, models["clip"])
    plain = guided.sample(PROMPT, guidance_mode="none").images
    towards = guided.sample(PROMPT, guidance_mode="clip").images
    assert np.any(plain != towards)
    # The first of the two steps, at timestep 999, is without a gradient.
    later = guided.sample(
        PROMPT, guidance_mode="clip", clip_guidance_interval=(0, 499)
    ).images
    np.testing.assert_array_equal(towards, later)


def test_the_small_picture_is_where_the_upsamplers_x_start_begins(models):
    student = as_student(models["upsampler"], residual_low_res=True)
    params = jax.tree.map(jnp.zeros_like, student.params)
    low_res = np.random.default_rng(0).uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)
    text = student.denoiser.encode(
        params, np.zeros((1, 8), np.int32), np.zeros((1, 8), bool)
    )
    output = student.denoiser.denoise(
        params,
        np.zeros((1, 16, 16, 3), np.float32),
        np.array([999], np.int32),
        text,
        low_res=low_res,
    )
    np.testing.assert_array_equal(output[..., :3], 0)
    expected = jax.image.resize(low_res, (1, 16, 16, 3), "bilinear")
    np.testing.assert_allclose(output[..., 3:], expected, atol=1e-6)


def test_the_program_of_a_student_draws_what_the_package_draws(students, tmp_path):
    student = students["base"]
    files = program.make_files(
        *(student.config, student.tokenizer, tmp_path),
        dtype="float32",
        prompt=PROMPT,
    )
    text = resolve.to_json(student.config)
    files |= student.tokenizer.files()
    bundle.write_bundle(tmp_path / "bundle", student.params, text, files, "A student.")
    draw = program_runner.load(tmp_path / "bundle" / "program")
    manifest = json.loads(files["program/manifest.json"])
    names = set(manifest["inputs"])
    assert "guidance_scale" in names
    assert not {"uncond_tokens", "eta"} & names
    tokens, text_mask = student.tokenizer.encode_batch([PROMPT], 8)
    inputs = {"tokens": tokens, "text_mask": text_mask, "seed": [7], "index": [2]}
    drawn = draw({**inputs, "guidance_scale": 4.0})
    wanted = cascade.Glide(student).sample(
        PROMPT, seed=7, first_index=2, guidance_scale=4.0
    )
    assert np.abs(drawn.astype(int) - wanted.images).max() <= 1


def test_a_student_has_no_bound_and_no_place_in_the_released_code(students, tmp_path):
    source = sources.open_source("shapes:quickstart")
    with pytest.raises(UserError, match="no variance"):
        losses.measure(students["base"], source, 2, batch_size=2)
    folder = conftest.write_bundle(tmp_path / "student", students["base"])
    with pytest.raises(UserError, match="predicts x_and_eps"):
        convert_bundles.to_openai(folder, tmp_path / "student.safetensors")
