"""Laws of the whole cascade: prompts to pictures, filling in, enlarging."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.config import defaults
from glide_jax.sample import cascade, images, settings

PROMPTS = ["a big r circle", "a small g circle", "a big b circle"]


@pytest.fixture(scope="module")
def both(models) -> cascade.Cascade:
    return cascade.Cascade(models["base"], models["upsampler"])


@pytest.fixture(scope="module")
def inpainter(models) -> cascade.Cascade:
    return cascade.Cascade(models["base_inpaint"], models["upsampler_inpaint"])


@pytest.fixture(scope="module")
def drawn(both) -> cascade.CascadeResult:
    """Three pictures in batches of two, so that the second batch is padded."""
    return both.sample(PROMPTS, seed=7, batch_size=2)


def make_pictures(count: int, side: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (count, side, side, 3), np.uint8)


def assert_within(actual, expected, levels):
    difference = np.abs(np.asarray(actual, int) - np.asarray(expected, int))
    assert difference.max() <= levels


def test_pictures_have_the_sizes_of_the_models(drawn):
    assert drawn.base_images.shape == (3, 8, 8, 3)
    assert drawn.images.shape == (3, 16, 16, 3)
    assert drawn.images.dtype == drawn.base_images.dtype == np.uint8
    assert not np.array_equal(drawn.images[0], drawn.images[1])


def test_an_image_is_the_same_in_any_batch(both, drawn):
    again = both.sample(PROMPTS[1:], seed=7, first_index=1, batch_size=2)
    # A batch may round differently, which is at most a level or two.
    assert_within(again.base_images, drawn.base_images[1:], 2)
    assert_within(again.images, drawn.images[1:], 2)
    alone = cascade.Cascade(both.base).sample(PROMPTS, seed=7, batch_size=1)
    assert_within(alone.base_images, drawn.base_images, 2)


def test_another_seed_gives_other_pictures(both, drawn):
    other = both.sample(PROMPTS[:2], seed=8, batch_size=2)
    assert not np.array_equal(other.base_images, drawn.base_images[:2])


def test_enlarging_the_small_pictures_gives_the_large_ones(both, drawn):
    enlarged = both.upsample(drawn.base_images, PROMPTS, seed=7, batch_size=2)
    np.testing.assert_array_equal(enlarged.images, drawn.images)


def test_an_enlarged_picture_can_be_held_to_the_small_one(both, inpainter):
    # Greys, as a mean next to black or white is moved when pixels are clipped.
    small = make_pictures(2, 8) // 8 + 112

    def means(pictures):
        return pictures.reshape(2, 8, 2, 8, 2, 3).mean(axis=(2, 4))

    free = both.upsample(small, PROMPTS[:2])
    held = both.upsample(small, PROMPTS[:2], match_low_res=True)
    assert held.settings["upsampler"]["match_low_res"]
    drift = [np.abs(means(r.images) - small).mean() for r in (free, held)]
    assert drift[1] < drift[0] / 4
    # Known pixels have the last word where the two disagree.
    pictures, masks = make_pictures(2, 16), np.zeros((2, 16, 16), np.float32)
    masks[:, :, :6] = 1
    result = inpainter.inpaint(pictures, masks, PROMPTS[:2], match_low_res=True)
    np.testing.assert_array_equal(result.images[:, :, :6], pictures[:, :, :6])


def test_without_an_upsampler_there_are_small_pictures_alone(models, drawn):
    alone = cascade.Cascade(models["base"]).sample(PROMPTS, seed=7, batch_size=2)
    np.testing.assert_array_equal(alone.base_images, drawn.base_images)
    assert alone.images is None


def test_settings_tell_what_the_defaults_came_to(drawn):
    assert drawn.settings["seed"] == 7
    assert drawn.settings["base"]["guidance_scale"] == 3.0
    assert drawn.settings["upsampler"]["respacing"] == "4"


def test_progress_counts_every_image_of_every_stage_once(both):
    finished = []
    both.sample(PROMPTS, seed=7, batch_size=2, progress=finished.append)
    assert finished == [0, 2, 1, 0, 2, 1]
    assert sum(finished) == len(PROMPTS) * both.num_stages


def test_an_all_known_mask_returns_the_picture(inpainter):
    pictures = make_pictures(2, 16)
    result = inpainter.inpaint(pictures, np.ones((2, 8, 8)), PROMPTS[:2])
    np.testing.assert_array_equal(result.images, pictures)
    np.testing.assert_array_equal(result.base_images, images.resize(pictures, 8))


def test_known_pixels_are_kept_and_the_rest_is_drawn(inpainter):
    pictures = make_pictures(2, 16)
    masks = np.zeros((2, 16, 16), np.float32)
    masks[:, :, :6] = 1
    results = [
        inpainter.inpaint(pictures, masks, PROMPTS[:2], seed=seed).images
        for seed in (1, 2)
    ]
    for result in results:
        assert_within(result[:, :, :6], pictures[:, :, :6], 1)
    assert np.abs(results[0][:, :, 6:].astype(int) - results[1][:, :, 6:]).max() > 20


def test_known_pixels_are_kept_to_the_edge_of_a_hole_off_the_base_grid(inpainter):
    pictures = make_pictures(2, 16)
    masks = np.ones((2, 16, 16), np.float32)
    masks[:, 3:12, 5:10] = 0  # odd edges: the base model has pixels of 2 x 2
    result = inpainter.inpaint(pictures, masks, PROMPTS[:2])
    known = masks == 1
    assert_within(result.images[known], pictures[known], 0)
    assert not np.array_equal(result.images, pictures)
    # A pixel of the base model that the hole touches is drawn anew by it.
    touched = images.resize_mask(masks[0], 8) == 0
    assert touched[1:6, 2:5].all()
    assert touched.sum() == 15
    small = images.resize(pictures, 8)
    assert_within(result.base_images[:, ~touched], small[:, ~touched], 0)


def test_an_inpainting_model_draws_without_a_picture_too(inpainter):
    result = cascade.Cascade(inpainter.base).sample(PROMPTS[:2])
    assert result.base_images.shape == (2, 8, 8, 3)


def change(model, section, **fields):
    part = dataclasses.replace(getattr(model.config, section), **fields)
    config = dataclasses.replace(model.config, **{section: part})
    return dataclasses.replace(model, config=config)


def test_models_that_do_not_fit_are_refused_by_name(models):
    base, upsampler, clip = models["base"], models["upsampler"], models["clip"]
    for parts, named in (
        ((upsampler,), "bundles/upsampler is not a base model"),
        ((clip,), "bundles/clip is not a base model"),
        ((base, base), "bundles/base enlarges pictures of 0 px"),
        ((base, change(upsampler, "model", low_res_px=4)), "of 4 px"),
        ((base, None, upsampler), "not a noised CLIP"),
        ((base, None, change(clip, "model", image_px=16)), "looks at 16 px"),
        ((base, None, change(clip, "diffusion", schedule="linear")), "linear"),
    ):
        with pytest.raises(errors.UserError, match=named):
            cascade.Cascade(*parts)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"guidance_mode": "clip"}, "needs a noised CLIP"),
        ({"guidance_mode": "very"}, "guidance_mode='very'"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan"),
        ({"guidance_scale": -1.0}, "guidance_scale=-1.0"),
        ({"clip_guidance_scale": float("inf")}, "clip_guidance_scale=inf"),
        ({"eta": 1.5}, "eta=1.5"),
        ({"eta": 0.5, "sampler": "ddpm"}, "eta=0.5 means nothing to sampler=ddpm"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": -1}, "seed=-1"),
        ({"respacing": "x"}, "respacing='x'"),
        ({"upsampler_respacing": "2000"}, "respacing='2000'"),
        ({"guidance": 3.0}, "guidance is not a sampling option"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(both, options, named):
    with pytest.raises(errors.UserError, match=named):
        both.sample(PROMPTS, **options)


def test_no_prompts_are_refused(both):
    for prompts in ([], "one string"):
        with pytest.raises(errors.UserError, match="no prompts"):
            both.sample(prompts)


def test_pictures_and_masks_of_the_wrong_size_are_refused(both, inpainter):
    pictures, masks = make_pictures(1, 16), np.ones((1, 8, 8))
    for wrong, named in (
        ((pictures, np.ones((1, 5, 5))), "masks have shape"),
        ((pictures, np.ones((2, 8, 8))), "masks have shape"),
        ((pictures[:, :10], masks), "16 x 10 pixels"),
        ((make_pictures(2, 16), masks), "1 prompts need"),
        ((pictures, 255 * masks), "masks range to 255"),
        ((pictures / 255, masks), "images are float64"),
    ):
        with pytest.raises(errors.UserError, match=named):
            inpainter.inpaint(*wrong, PROMPTS[:1])
    with pytest.raises(errors.UserError, match="takes no inpainting mask"):
        both.inpaint(pictures, masks, PROMPTS[:1])
    with pytest.raises(errors.UserError, match="images have shape"):
        both.upsample(pictures, PROMPTS[:1])


def test_enlarging_needs_an_upsampler(models):
    alone = cascade.Cascade(models["base"])
    with pytest.raises(errors.UserError, match="needs an upsampler"):
        alone.upsample(make_pictures(1, 8), PROMPTS[:1])


def test_an_eta_of_the_bundle_goes_with_its_sampler(models):
    default = defaults.SampleConfig(sampler="ddim", eta=0.5)
    assert settings.SampleOptions().base(default).eta == 0.5
    assert settings.SampleOptions(sampler="ddpm").base(default).eta == 0.0


def test_a_default_that_a_bundle_carries_is_used(models):
    config = dataclasses.replace(
        models["base"].config, sample=defaults.SampleConfig(respacing="nonsense")
    )
    broken = dataclasses.replace(models["base"], config=config)
    with pytest.raises(errors.UserError, match="nonsense"):
        cascade.Cascade(broken).sample(PROMPTS)
