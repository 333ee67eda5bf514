"""Laws of the whole cascade: prompts to pictures, filling in, enlarging."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from glide_jax import errors
from glide_jax.config import defaults
from glide_jax.sample import batches, cascade, image_io, options, request, rerank

PROMPTS = ["a big r circle", "a small g circle", "a big b circle"]


@pytest.fixture(scope="module")
def both(models) -> cascade.Glide:
    return cascade.Glide(models["base"], models["upsampler"])


@pytest.fixture(scope="module")
def inpainter(models) -> cascade.Glide:
    return cascade.Glide(models["base_inpaint"], models["upsampler_inpaint"])


@pytest.fixture(scope="module")
def drawn(both) -> request.CascadeOutput:
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
    alone = cascade.Glide(both.base).sample(PROMPTS, seed=7, batch_size=1)
    assert_within(alone.base_images, drawn.base_images, 2)


def test_pictures_of_several_seeds_are_drawn_at_once(both, drawn):
    asked = [PROMPTS[1], PROMPTS[0], PROMPTS[1]]
    mixed = both.sample(asked, seeds=[(7, 1), (8, 0), (8, 0)], batch_size=2)
    assert mixed.seeds == ((7, 1), (8, 0), (8, 0))
    assert mixed.settings["seed"] is None
    # In a batch of one size, a picture does not depend on its place and neighbours.
    np.testing.assert_array_equal(mixed.images[0], drawn.images[1])
    assert not np.array_equal(mixed.images[0], mixed.images[2])
    for seeds, given, line in (
        ([(7, 0)], {}, "1 seeds for 3 pictures"),
        ([(7, 0)] * 3, {"seed": 1}, "seeds replace seed"),
        ([(7, 0), (7, -1), (7, 2)], {}, "first_index=-1"),
    ):
        with pytest.raises(errors.UserError, match=line):
            both.sample(PROMPTS, seeds=seeds, **given)


def test_another_seed_gives_other_pictures(both, drawn):
    other = both.sample(PROMPTS[:2], seed=8, batch_size=2)
    assert not np.array_equal(other.base_images, drawn.base_images[:2])


def test_enlarging_the_small_pictures_gives_the_large_ones(both, drawn):
    enlarged = both.upsample(drawn.base_images, PROMPTS, seed=7, batch_size=2)
    np.testing.assert_array_equal(enlarged.images, drawn.images)


def test_a_large_picture_is_enlarged_in_squares_without_a_base_model(both, drawn):
    alone = cascade.Glide(upsampler=both.upsampler)
    small = alone.upsample(drawn.base_images, PROMPTS, seed=7, batch_size=2)
    np.testing.assert_array_equal(small.images, drawn.images)
    assert small.settings["base"] is None
    pictures = np.pad(drawn.base_images[:2], ((0, 0), (0, 0), (0, 6), (0, 0)), "edge")
    finished = []
    wide = alone.upsample(
        pictures, PROMPTS[:2], seed=7, batch_size=2, progress=finished.append
    )
    assert wide.images.shape == (2, 16, 28, 3)
    assert sum(finished) == pytest.approx(4)  # two squares of each
    # The first square is what it is alone.
    assert_within(wide.images[:, :, :12], drawn.images[:2, :, :12], 2)
    flat = alone.upsample(np.full((8, 14, 3), 90, np.uint8), PROMPTS[0]).images[0]
    # Two squares that show the same differ by their noise.
    assert not np.array_equal(flat[:, :12], flat[:, 16:])
    with pytest.raises(errors.UserError, match="without a base model"):
        alone.sample(PROMPTS)
    with pytest.raises(errors.UserError, match="no base model was given"):
        cascade.Glide()


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
    alone = cascade.Glide(models["base"]).sample(PROMPTS, seed=7, batch_size=2)
    np.testing.assert_array_equal(alone.base_images, drawn.base_images)
    np.testing.assert_array_equal(alone.images, alone.base_images)


def test_settings_record_the_resolved_defaults(drawn):
    assert drawn.settings["seed"] == 7
    assert drawn.settings["base"]["guidance_scale"] == 3.0
    assert drawn.settings["upsampler"]["respacing"] == "4"


def test_progress_counts_every_image_of_every_stage_once(both):
    finished = []
    both.sample(PROMPTS, seed=7, batch_size=2, progress=finished.append)
    # A bundle of the tests walks 4 timesteps, each of which is told of.
    assert finished == [0, *[0.5] * 4, *[0.25] * 4] * both.num_stages
    assert sum(finished) == len(PROMPTS) * both.num_stages


class Watched(batches.StepProgress):
    """Notes every step with its estimate, and ends at one of them."""

    def __init__(self, end=None):
        self.steps, self._end = [], end

    def on_step(self, step):
        self.steps.append((step.stage, step.num_made, step.total, step.estimate()))
        if self.steps[-1][:2] == self._end:
            raise KeyboardInterrupt


def test_a_walk_of_single_steps_draws_the_same_and_predicts_the_picture(both, drawn):
    watched = Watched()
    again = both.sample(PROMPTS, seed=7, batch_size=2, progress=watched)
    np.testing.assert_array_equal(again.images, drawn.images)
    batch = [(name, i, 4) for name in ("base", "upsampler") for i in range(1, 5)]
    assert sorted(step[:3] for step in watched.steps) == sorted(batch * 2)
    # The last step returns what is predicted before it.
    before = next(step[3] for step in watched.steps if step[:2] == ("upsampler", 3))
    assert_within(before, drawn.images[:2], 1)
    after = next(step[3] for step in watched.steps if step[:2] == ("upsampler", 4))
    np.testing.assert_array_equal(after, drawn.images[:2])
    first = watched.steps[0][3]
    assert np.abs(first.astype(int) - drawn.base_images[:2]).max() > 2
    stopped = Watched(("base", 2))
    with pytest.raises(KeyboardInterrupt):
        both.sample(PROMPTS, seed=7, batch_size=2, progress=stopped)
    assert len(stopped.steps) == 2


def test_an_edit_tells_of_the_steps_that_it_makes(both):
    watched = Watched()
    pictures = make_pictures(1, 16)
    both.edit(pictures, PROMPTS[0], strength=0.5, progress=watched)
    assert [step[1:3] for step in watched.steps] == [(1, 2), (2, 2)] * 2


@pytest.mark.parametrize(("value", "extent"), [(1, "nothing"), (0, "everything")])
def test_a_mask_that_leaves_no_work_or_no_picture_is_refused(inpainter, value, extent):
    pictures = make_pictures(2, 16)
    masks = np.stack([np.eye(8), np.full((8, 8), value)])
    with pytest.raises(errors.UserError, match=f"mask 1 is {value} .*{extent}"):
        inpainter.inpaint(pictures, masks, PROMPTS[:2])


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
    touched = image_io.resize_mask(masks[0], 8) == 0
    assert touched[1:6, 2:5].all()
    assert touched.sum() == 15
    small = image_io.resize(pictures, 8)
    assert_within(result.base_images[:, ~touched], small[:, ~touched], 0)


def test_an_inpainting_model_draws_without_a_picture_too(inpainter):
    result = cascade.Glide(inpainter.base).sample(PROMPTS[:2])
    assert result.base_images.shape == (2, 8, 8, 3)


def change(model, section, **fields):
    part = dataclasses.replace(getattr(model.config, section), **fields)
    config = dataclasses.replace(model.config, **{section: part})
    return dataclasses.replace(model, config=config)


def test_pil_pictures_and_single_prompts_will_do(inpainter):
    picture, mask = make_pictures(1, 16), np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 255
    asked = "a big r circle"
    drawn = inpainter.inpaint(
        Image.fromarray(picture[0]), Image.fromarray(mask), asked, num_images=2
    )
    arrays = inpainter.inpaint(picture, mask[None] / 255, [asked] * 2)
    np.testing.assert_array_equal(drawn.images, arrays.images)
    assert drawn.images.shape == (2, 16, 16, 3)
    many = inpainter.inpaint(make_pictures(3, 16), mask / 255, asked)
    assert many.images.shape == (3, 16, 16, 3)


def test_an_edit_of_strength_0_returns_the_picture(both):
    pictures = make_pictures(2, 16)
    kept = both.edit(pictures, PROMPTS[0], strength=0.0)
    np.testing.assert_array_equal(kept.images, pictures)
    np.testing.assert_array_equal(kept.base_images, image_io.resize(pictures, 8))
    assert kept.settings["strength"] == 0.0
    changed = both.edit(pictures, PROMPTS[0], strength=1.0)
    assert np.abs(changed.images.astype(int) - pictures).max() > 20


def test_an_edited_picture_has_the_size_that_it_had(both):
    y, x = np.mgrid[:40, :60]
    picture = np.stack([4 * x, 5 * y, 2 * x + y], axis=-1).astype(np.uint8)
    kept = both.edit(picture, PROMPTS[0], strength=0.0)
    np.testing.assert_array_equal(kept.images[0], picture)
    slightly = both.edit(picture, PROMPTS[0], strength=0.001, respacing="1000")
    assert slightly.images.shape == (1, 40, 60, 3)
    changed = both.edit(picture, PROMPTS[0], strength=1.0)
    assert np.abs(changed.images.astype(int) - picture).max() > 20


def test_an_inverted_picture_holds_all_there_is_to_draw(both):
    pictures = make_pictures(2, 16)
    own = {"source_prompts": PROMPTS[0], "strength": 0.75}
    drawn = [both.edit(pictures, PROMPTS[1], **own, seed=seed) for seed in (1, 2)]
    # No noise is drawn, so the seed has no say.
    np.testing.assert_array_equal(drawn[0].images, drawn[1].images)
    assert not np.array_equal(drawn[0].images[0], drawn[0].images[1])
    assert drawn[0].settings["source_prompts"] == [PROMPTS[0]] * 2
    noised = [both.edit(pictures, PROMPTS[1], seed=seed) for seed in (1, 2)]
    assert not np.array_equal(noised[0].images, noised[1].images)
    for wrong, named in (
        ({"sampler": "ddpm"}, "use sampler=ddim"),
        ({"source_prompts": PROMPTS}, "3 prompts in source_prompts for 2 pictures"),
        ({"strength": 1.5}, "strength=1.5"),
        ({"strength": float("nan")}, "strength=nan"),
    ):
        with pytest.raises(errors.UserError, match=named):
            both.edit(pictures, PROMPTS[0], **{**own, **wrong})


def test_the_best_of_several_candidates_is_the_one_nearest_to_its_prompt(models):
    glide = cascade.Glide(models["base"], models["upsampler"], models["clip"])
    asked = PROMPTS[:2]
    best = glide.sample(asked, candidates=3, seed=1)
    every = glide.sample(asked, num_images=3, seed=1)
    scores = rerank.make_scorer(models["clip"])(
        every.base_images, [p for p in asked for _ in range(3)], 4
    )
    chosen = [3 * i + int(np.argmax(scores[3 * i : 3 * i + 3])) for i in range(2)]
    assert [index for _, index in best.seeds] == chosen
    assert_within(best.images, every.images[chosen], 2)
    # Drawn alone by its index it is the same picture.
    alone = glide.sample(asked[1], seed=1, first_index=chosen[1])
    assert_within(alone.images, best.images[1:], 2)
    given = glide.sample(asked, candidates=3, seeds=[(1, 0), (1, 3)])
    assert given.seeds == best.seeds
    np.testing.assert_array_equal(given.images, best.images)
    with pytest.raises(errors.UserError, match="candidates=3 are compared by"):
        cascade.Glide(models["base"]).sample(asked, candidates=3)


def test_a_picture_continued_beyond_its_sides_keeps_what_was_there(inpainter):
    pictures = make_pictures(2, 16)
    wider = inpainter.outpaint(pictures, PROMPTS[0], (4, 0, 16, 0))
    assert wider.images.shape == (2, 16, 36, 3)
    np.testing.assert_array_equal(wider.images[:, :, 4:20], pictures)
    new = np.concatenate([wider.images[:, :, :4], wider.images[:, :, 20:]], axis=2)
    assert new.std() > 5
    assert wider.settings["margins"] == [4, 0, 16, 0]


def test_pictures_are_drawn_as_often_as_asked_for(inpainter):
    pictures = make_pictures(2, 16)
    mask = np.zeros((16, 16))
    mask[:, :8] = 1
    drawn = inpainter.inpaint(pictures, mask, PROMPTS[:2], num_images=2)
    assert drawn.images.shape[0] == 4
    known = drawn.images[:, :, :8]
    np.testing.assert_array_equal(known, np.repeat(pictures, 2, axis=0)[:, :, :8])
    both_of_one = inpainter.inpaint(pictures, mask, PROMPTS[0], num_images=2)
    assert both_of_one.images.shape[0] == 4


def test_a_feathered_mask_keeps_pixels_beyond_its_edge(inpainter):
    pictures = make_pictures(2, 16)
    masks = np.ones((2, 16, 16))
    masks[:, :, 8:] = 0
    sharp = inpainter.inpaint(pictures, masks, PROMPTS[0])
    soft = inpainter.inpaint(pictures, masks, PROMPTS[0], feather_px=4)
    np.testing.assert_array_equal(soft.images[:, :, :4], pictures[:, :, :4])
    assert not np.array_equal(soft.images[:, :, 4:8], pictures[:, :, 4:8])
    np.testing.assert_array_equal(sharp.images[:, :, :8], pictures[:, :, :8])


def test_a_picture_of_any_size_is_given_back_with_its_hole_filled(inpainter):
    pictures = make_pictures(2, 70)[:, :50]
    masks = np.ones((2, 50, 70))
    masks[0, 5:25, 40:60] = masks[1, 30:45, 3:20] = 0
    first = inpainter.inpaint(pictures, masks, PROMPTS[:2])
    assert first.images.shape == pictures.shape
    assert first.base_images.shape == (2, 8, 8, 3)
    known = masks == 1
    np.testing.assert_array_equal(first.images[known], pictures[known])
    assert np.abs(first.images[~known].astype(int) - pictures[~known]).max() > 20
    assert first.settings["squares"] == [
        {"left": 30, "top": 0, "side": 40},
        {"left": 0, "top": 16, "side": 34},
    ]
    # One mask may serve several pictures, and one picture several prompts.
    second = inpainter.inpaint(pictures[0], masks[0], PROMPTS[0], num_images=2)
    assert second.settings["squares"] == first.settings["squares"][:1]
    assert_within(second.images[0], first.images[0], 2)


def test_a_soft_edge_needs_something_known_beyond_it(inpainter):
    pictures, mask = make_pictures(1, 40), np.ones((40, 40))
    mask[10:20, 10:20] = 0
    soft = inpainter.inpaint(pictures, mask, PROMPTS[0], feather_px=19)
    np.testing.assert_array_equal(soft.images[:, :, 39], pictures[:, :, 39])
    with pytest.raises(errors.UserError, match=r"feather_px=20, .* give at most 19"):
        inpainter.inpaint(pictures, mask, PROMPTS[0], feather_px=20)
    with pytest.raises(errors.UserError, match="feather_px=4 has no effect"):
        inpainter.outpaint(pictures, PROMPTS[0], (4, 0, 0, 0), feather_px=4)


@pytest.mark.parametrize("mode", ["masked", "implicit"])
def test_models_never_taught_to_inpaint_can_fill_a_hole(both, mode):
    pictures, masks = make_pictures(2, 16), np.zeros((2, 16, 16))
    masks[:, :, :6] = 1
    filled = both.inpaint(pictures, masks, PROMPTS[0], inpaint_mode=mode)
    np.testing.assert_array_equal(filled.images[:, :, :6], pictures[:, :, :6])
    assert np.abs(filled.images[:, :, 6:].astype(int) - pictures[:, :, 6:]).max() > 20


def test_models_that_do_not_fit_are_refused_by_name(models):
    base, upsampler, clip = models["base"], models["upsampler"], models["clip"]
    for parts, named in (
        ((upsampler,), "bundles/upsampler is not a base model"),
        ((clip,), "bundles/clip is not a base model"),
        ((base, base), "bundles/base is not an upsampler"),
        ((base, change(upsampler, "model", low_res_px=4)), "of 4 px"),
        ((base, None, upsampler), "not a noised CLIP"),
        ((base, None, change(clip, "model", image_px=16)), "reads 16 px"),
        ((base, None, change(clip, "diffusion", schedule="linear")), "linear"),
    ):
        with pytest.raises(errors.UserError, match=named):
            cascade.Glide(*parts)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"guidance_mode": "clip"}, "needs a noised CLIP"),
        ({"guidance_mode": "very"}, "guidance_mode='very'"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan"),
        ({"guidance_scale": -1.0}, "guidance_scale=-1.0"),
        ({"clip_guidance_scale": float("inf")}, "clip_guidance_scale=inf"),
        ({"eta": 1.5}, "eta=1.5"),
        ({"eta": 0.5, "sampler": "ddpm"}, "eta=0.5 has no effect with sampler=ddpm"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": -1}, "seed=-1"),
        ({"respacing": "x"}, "respacing='x'"),
        ({"upsampler_respacing": "2000"}, "respacing='2000'"),
        ({"guidance": 3.0}, "guidance is not a sampling option"),
        ({"guidance_interval": (500, 100)}, "is not an interval of timesteps"),
        ({"clip_guidance_interval": (0, 1000)}, "is not an interval of timesteps"),
        ({"guidance_rescale": 2.0}, "guidance_rescale=2.0"),
        ({"threshold_quantile": 0.2}, "threshold_quantile=0.2"),
        ({"upsampler_eta": 0.5, "upsampler_sampler": "plms"}, "has no effect"),
        ({"negative_prompt": "x", "guidance_mode": "none"}, "has no effect with"),
        ({"guidance_scale": 2.0, "guidance_mode": "none"}, "has no effect with"),
        ({"candidates": 0}, "candidates=0"),
        ({"first_index": 2**32 - 2}, "first_index=4294967294 leads to picture"),
        ({"clip_guidance_scale": 2.0}, "has no effect with guidance_mode=cfg"),
        ({"guidance_scale": 1e50}, "guidance_scale=1e"),
        ({"respacing": "lambda0"}, "lambda0"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(both, options, named):
    with pytest.raises(errors.UserError, match=named):
        both.sample(PROMPTS, **options)


def test_no_prompts_are_refused(both):
    with pytest.raises(errors.UserError, match="no prompts"):
        both.sample([])


def test_pictures_and_masks_of_the_wrong_size_are_refused(both, inpainter):
    pictures, masks = make_pictures(1, 16), np.eye(8)[None]
    for wrong, named in (
        ((pictures, np.ones((1, 5, 5))), "masks have shape"),
        ((pictures, np.stack([np.eye(8)] * 2)), "masks have shape .* 1 pictures"),
        ((pictures[:, :10], masks), "16 x 10 pixels like its picture$"),
        ((pictures, 255 * masks), "masks range from 0 to 255"),
        ((pictures / 255, masks), "images are float64"),
        ((pictures, 0.5 * masks), "0 elsewhere"),
    ):
        with pytest.raises(errors.UserError, match=named):
            inpainter.inpaint(*wrong, PROMPTS[:1])
    with pytest.raises(errors.UserError, match="3 prompts need"):
        inpainter.inpaint(make_pictures(2, 16), masks, PROMPTS)
    with pytest.raises(errors.UserError, match="takes no inpainting mask"):
        both.inpaint(pictures, masks, PROMPTS[:1])
    with pytest.raises(errors.UserError, match="give uint8"):
        both.upsample(pictures / 255, PROMPTS[:1])


def test_enlarging_needs_an_upsampler(models):
    alone = cascade.Glide(models["base"])
    with pytest.raises(
        errors.UserError, match="match_low_res=True is for an upsampler"
    ):
        alone.sample(PROMPTS, match_low_res=True)
    with pytest.raises(errors.UserError, match="needs an upsampler"):
        alone.upsample(make_pictures(1, 8), PROMPTS[:1])


def test_an_eta_of_the_bundle_goes_with_its_sampler(models):
    default = defaults.SampleConfig(sampler="ddim", eta=0.5)
    assert options.SamplingOptions().resolve("base", default).eta == 0.5
    assert options.SamplingOptions(sampler="ddpm").resolve("base", default).eta == 0


def test_a_default_that_a_bundle_carries_is_used(models):
    config = dataclasses.replace(
        models["base"].config, sample=defaults.SampleConfig(respacing="nonsense")
    )
    broken = dataclasses.replace(models["base"], config=config)
    with pytest.raises(errors.UserError, match="nonsense"):
        cascade.Glide(broken).sample(PROMPTS)
