"""Laws of one compiled stage."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax import errors
from glide_jax.diffusion import (
    guidance,
    respacing,
    samplers,
    sampling_loop,
    single_step,
)
from glide_jax.runtime import random_streams
from glide_jax.sample import options, prompt_tokens, stage, stage_inputs

PROMPTS = ["a big r circle", "a small g circle"]


def make(models, mode, *, sampler="ddpm", fns=None, **settings):
    base = models["base"]
    return stage.make_stage(
        base.config,
        fns or base.fns,
        stage.StageSettings(
            guidance_mode=mode, sampler=sampler, respacing="4", **settings
        ),
        models["clip"].fns,
    )


def make_inputs(models, **changes) -> stage_inputs.StageInputs:
    base = models["base"]
    inputs = stage_inputs.StageInputs(
        keys=random_streams.image_keys(0, np.arange(len(PROMPTS)), 0),
        caption=prompt_tokens.encode(base, PROMPTS),
        empty=prompt_tokens.encode_empty(base, ""),
        clip_caption=prompt_tokens.encode(models["clip"], PROMPTS),
    )
    return inputs._replace(**changes)


class Draw:
    """draw(mode, sampler, **inputs) -> x_start, each program compiled once.

    `traces` counts how often a program's denoiser was traced.
    """

    def __init__(self, models):
        self.models = models
        self.stages = {}
        self.traces = 0

    def __call__(self, mode, sampler="ddpm", settings=(), **inputs):
        models, key = self.models, (mode, sampler, settings)
        if key not in self.stages:
            fns = models["base"].fns._replace(denoise=self._denoise)
            self.stages[key] = make(
                models, mode, sampler=sampler, fns=fns, **dict(settings)
            )
        params = models["base"].params, models["clip"].params
        return np.asarray(self.stages[key](*params, make_inputs(models, **inputs)))

    def _denoise(self, *args, **conditions):
        self.traces += 1
        return self.models["base"].fns.denoise(*args, **conditions)


@pytest.fixture(scope="module")
def draw(models):
    return Draw(models)


def test_classifier_free_guidance_at_scale_1_is_no_guidance(draw):
    # Rounding in the doubled batch, carried through four steps.
    np.testing.assert_allclose(draw("cfg", guidance_scale=1.0), draw("none"), atol=1e-4)


def test_clip_guidance_at_scale_0_is_no_guidance(draw):
    np.testing.assert_allclose(
        draw("clip", clip_guidance_scale=0.0), draw("none"), atol=1e-4
    )


def test_both_guidances_with_clip_at_0_are_classifier_free_alone(draw):
    np.testing.assert_allclose(
        draw("cfg+clip", guidance_scale=3.0, clip_guidance_scale=0.0),
        draw("cfg", guidance_scale=3.0),
        atol=1e-4,
    )


def test_guidance_changes_the_picture(draw):
    plain = draw("none")
    for mode in ("cfg", "clip"):
        guided = draw(mode, guidance_scale=5.0, clip_guidance_scale=5.0)
        assert np.abs(guided - plain).max() > 0.01, mode


def test_the_same_inputs_give_the_same_picture(draw):
    np.testing.assert_array_equal(draw("cfg"), draw("cfg"))


def test_a_trace_serves_every_value_of_every_scale(draw):
    counts = []
    # The third call mixes Python integers and arrays with the floats.
    for scale, eta in ((3.0, 0.0), (1.5, 0.5), (4, jnp.float32(1))):
        scales = {"guidance_scale": scale, "clip_guidance_scale": scale, "eta": eta}
        draw("cfg+clip", "ddim", **scales, noise_temperature=scale)
        counts.append(draw.traces)
    assert counts[0] > 0
    assert counts == [counts[0]] * 3


@pytest.mark.parametrize("rule", ["ddpm", pytest.param("ddim", marks=pytest.mark.slow)])
def test_the_doubled_batch_equals_two_passes_step_by_step(models, draw, rule):
    base, clip = models["base"], models["clip"]
    inputs = make_inputs(models)
    encode, denoise = jax.jit(base.fns.encode), jax.jit(base.fns.denoise)
    cond = encode(base.params, *(part[:, 0] for part in inputs.caption))
    empty = [np.repeat(part, 2, axis=0) for part in inputs.empty]
    uncond = encode(base.params, *empty)
    text = jax.jit(clip.fns.encode_text)(
        clip.params, *(part[:, 0] for part in inputs.clip_caption)
    )
    text = text / jnp.linalg.norm(text, axis=-1, keepdims=True)

    @jax.jit
    def gradient(x_t, timesteps):
        def objective(x):
            z = clip.fns.encode_image(clip.params, x, timesteps)
            z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
            return jnp.exp(clip.params["logit_scale"]) * jnp.sum(z * text)

        return 2.0 * jax.grad(objective)(x_t)

    tables = respacing.respaced_tables("squaredcos_cap_v2", 1000, "4")
    step = {"ddpm": single_step.ddpm_step, "ddim": single_step.ddim_step}[rule]
    step = jax.jit(step)
    x_t = sampling_loop.initial_noise(inputs.keys, (8, 8, 3))
    for index, timestep in ((3, 999), (2, 666), (1, 333), (0, 0)):
        t, timesteps = jnp.full(2, index), jnp.full(2, timestep)
        output = guidance.classifier_free(
            denoise(base.params, x_t, timesteps, cond),
            denoise(base.params, x_t, timesteps, uncond),
            3.0,
        )
        noise = sampling_loop.step_noise(inputs.keys, t, (8, 8, 3))
        shift = gradient(x_t, timesteps)
        if rule == "ddim" and timestep == 999:  # see the next test
            shift = jnp.zeros_like(shift)
        x_t = step(tables, output, x_t, t, noise, gradient=shift).x_prev
    drawn = draw("cfg+clip", rule, guidance_scale=3.0, clip_guidance_scale=2.0)
    # Relative, since the score shift is not clipped and can leave [-1, 1].
    scale = max(1.0, float(np.abs(x_t).max()))
    np.testing.assert_allclose(drawn / scale, np.asarray(x_t) / scale, atol=1e-2)


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_a_clip_that_shifts_the_score_skips_the_noisiest_timesteps(draw, sampler):
    strong = {"clip_guidance_scale": 50.0}
    drawn = draw("clip", sampler, **strong)
    without_first = draw("clip", sampler, clip_guidance_last=900.0, **strong)
    # The four timesteps are 999, 666, 333 and 0.
    assert np.array_equal(drawn, without_first) == (sampler != "ddpm")
    assert np.abs(drawn - draw("none", sampler)).max() > 0.01


def test_guidance_outside_its_interval_is_no_guidance(draw):
    for off in ({"guidance_first": 1.0, "guidance_last": 1.0},):
        drawn = draw("cfg", guidance_scale=5.0, **off)
        np.testing.assert_allclose(drawn, draw("none"), atol=1e-4)
    off = {"clip_guidance_first": 1.0, "clip_guidance_last": 1.0}
    drawn = draw("clip", clip_guidance_scale=5.0, **off)
    np.testing.assert_allclose(drawn, draw("none"), atol=1e-4)


def test_guidance_within_part_of_the_steps_is_in_between(draw):
    half = draw("cfg", guidance_scale=20.0, guidance_first=500.0)
    for whole in (draw("none"), draw("cfg", guidance_scale=20.0)):
        assert np.abs(half - whole).max() > 0.01


def test_a_negative_prompt_takes_the_place_of_the_empty_caption(models, draw):
    plain = draw("cfg", guidance_scale=20.0)
    negative = prompt_tokens.encode_empty(models["base"], "a small b circle")
    steered = draw("cfg", guidance_scale=20.0, empty=negative)
    assert np.abs(steered - plain).max() > 0.01
    # Away from itself is nowhere.
    own = prompt_tokens.encode_empty(models["base"], PROMPTS[0])
    unmoved = draw("cfg", guidance_scale=3.0, empty=own)
    np.testing.assert_allclose(unmoved[0], draw("none")[0], atol=1e-4)


def test_rescaled_guidance_differs_and_at_share_0_does_not(draw):
    plain = draw("cfg", guidance_scale=50.0)
    np.testing.assert_array_equal(
        draw("cfg", guidance_scale=50.0, guidance_rescale=0.0), plain
    )
    rescaled = draw("cfg", guidance_scale=50.0, guidance_rescale=0.7)
    assert np.abs(rescaled - plain).max() > 1e-3


@pytest.mark.parametrize("mode", ["none", "cfg+clip"])
def test_a_blend_of_a_prompt_with_itself_is_that_prompt(models, draw, mode):
    scales = {"guidance_scale": 3.0, "clip_guidance_scale": 2.0}
    twice = {
        name: stage_inputs.Caption(*(np.repeat(part, 2, axis=1) for part in caption))
        for name, caption in (
            ("caption", prompt_tokens.encode(models["base"], PROMPTS)),
            ("clip_caption", prompt_tokens.encode(models["clip"], PROMPTS)),
        )
    }
    weights = np.array([[0.7, 0.3], [1.0, 5.0]], np.float32)
    blended = draw(mode, **scales, **twice, weights=weights)
    # Rounding grows through four steps; the score is not clipped again.
    np.testing.assert_allclose(blended, draw(mode, **scales), atol=1e-3)


def test_a_blend_differs_from_both_prompts(models, draw):
    pair = [{PROMPTS[0]: 0.5, PROMPTS[1]: 0.5}] * 2
    blended = draw(
        "cfg", caption=prompt_tokens.encode(models["base"], pair), guidance_scale=100.0
    )
    # Untrained, this model hardly tells two captions apart; rounding is 1e-5.
    assert np.abs(blended - draw("cfg", guidance_scale=100.0)).max() > 1e-3


def test_a_weight_of_0_leaves_a_prompt_out(models, draw):
    asked = [{PROMPTS[0]: 1.0, PROMPTS[1]: 1.0}, PROMPTS[1]]
    drawn = draw(
        "cfg",
        caption=prompt_tokens.encode(models["base"], asked),
        weights=prompt_tokens.weights(asked),
    )
    np.testing.assert_allclose(drawn[1], draw("cfg")[1], atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddpm", "plms"])
def test_an_edit_of_strength_0_returns_the_picture(draw, sampler):
    picture = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    kept = draw("none", sampler, init_image=picture, strength=0.0)
    np.testing.assert_allclose(kept, picture, atol=1e-6)
    changed = draw("none", sampler, init_image=picture, strength=0.75)
    assert np.abs(changed - picture).max() > 0.1


def test_a_stronger_edit_leaves_the_picture_further_behind(draw):
    picture = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    distances = [
        np.abs(draw("none", init_image=picture, strength=s) - picture).mean()
        for s in (0.0, 0.25, 1.0)
    ]
    assert distances == sorted(distances)


def test_an_edit_reaches_the_same_noise_in_any_respacing(models):
    base, walked = models["base"], {}
    picture = np.zeros((2, 8, 8, 3), np.float32)
    for spec in ("150", "lambda20", "fast27"):
        seen = walked[spec] = []

        def denoise(params, x_t, timesteps, text, *, seen=seen, **conditions):
            jax.debug.callback(lambda t: seen.append(int(t)), timesteps[0])
            return jnp.concatenate([x_t, x_t], axis=-1)

        draw = stage.make_stage(
            base.config,
            base.fns._replace(denoise=denoise),
            stage.StageSettings(guidance_mode="none", sampler="ddim", respacing=spec),
        )
        inputs = make_inputs(models, init_image=picture, strength=0.6)
        jax.block_until_ready(draw(base.params, None, inputs))
        jax.effects_barrier()
        tables = respacing.respaced_tables("squaredcos_cap_v2", 1000, spec)
        kept = np.asarray(tables.timesteps)
        assert max(seen) == kept[kept < 600].max()
        assert len(seen) == (kept < 600).sum()


@pytest.mark.parametrize("mode", ["masked", "implicit"])
def test_a_soft_edge_is_blended_once(models, mode):
    base = models["base"]
    picture = np.full((2, 8, 8, 3), 0.8, np.float32)

    def denoise(params, x_t, timesteps, text, **conditions):
        # Whatever it is shown, it says that the picture is black.
        tables = respacing.respaced_tables("squaredcos_cap_v2", 1000, "4")
        index = jnp.argmax(jnp.asarray(tables.timesteps) == timesteps[0])
        scale = jnp.asarray(tables.sqrt_recip_alphas_cumprod)[index]
        root = jnp.asarray(tables.sqrt_recipm1_alphas_cumprod)[index]
        eps = (scale * x_t + 1) / root
        return jnp.concatenate([eps, jnp.zeros_like(eps)], axis=-1)

    mask = np.broadcast_to(np.linspace(0, 1, 8, dtype="f4")[:, None], (2, 8, 8, 1))
    draw = stage.make_stage(
        base.config,
        base.fns._replace(denoise=denoise),
        stage.StageSettings(guidance_mode="none", respacing="4", inpaint_mode=mode),
    )
    inputs = make_inputs(models, inpaint_image=picture, inpaint_mask=np.array(mask))
    drawn = draw(base.params, None, inputs)
    blended = np.broadcast_to(mask * 0.8 - (1 - mask), picture.shape)
    np.testing.assert_allclose(drawn, blended, atol=1e-4)


def test_an_inverted_picture_is_enlarged_to_its_edited_small_one(models):
    upsampler, spec = models["upsampler"], "50"
    tables = respacing.respaced_tables("squaredcos_cap_v2", 1000, spec)

    def denoise(params, x_t, timesteps, text, *, low_res, **conditions):
        # The ideal one for pixels spread by 0.3 around the small picture's.
        index = jnp.argmax(jnp.asarray(tables.timesteps) == timesteps[0])
        signal = jnp.asarray(tables.alphas_cumprod)[index]
        mean = low_res.repeat(2, axis=1).repeat(2, axis=2)
        gain = 0.09 * jnp.sqrt(signal) / (0.09 * signal + 1 - signal)
        x_start = mean + gain * (x_t - jnp.sqrt(signal) * mean)
        eps = (x_t - jnp.sqrt(signal) * x_start) / jnp.sqrt(1 - signal)
        return jnp.concatenate([eps, jnp.zeros_like(eps)], axis=-1)

    draw = stage.make_stage(
        upsampler.config,
        upsampler.fns._replace(denoise=denoise),
        stage.StageSettings(
            guidance_mode="none", sampler="ddim", respacing=spec, inverts=True
        ),
    )
    inputs = make_inputs(
        models,
        init_image=np.full((2, 16, 16, 3), -0.5, np.float32),
        low_res=np.full((2, 8, 8, 3), 0.5, np.float32),
        source_caption=prompt_tokens.encode(upsampler, PROMPTS),
    )
    drawn = np.asarray(draw(upsampler.params, None, inputs))
    np.testing.assert_allclose(drawn.mean(), 0.5, atol=0.1)


@pytest.mark.parametrize("mode", options.INPAINT_MODES)
def test_every_way_of_inpainting_keeps_an_all_known_picture(models, mode):
    picture = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    # The other two need no model that was trained to inpaint.
    model = models["base_inpaint" if mode == "pinned" else "base"]
    settings = stage.StageSettings(respacing="4", inpaint_mode=mode)
    drawn = stage.make_stage(model.config, model.fns, settings)(
        model.params,
        None,
        make_inputs(
            models, inpaint_image=picture, inpaint_mask=np.ones((2, 8, 8, 1), "f4")
        ),
    )
    np.testing.assert_allclose(drawn, picture, atol=1e-6)


def test_dynamic_thresholding_keeps_pixels_in_range_and_changes_them(draw):
    settings = (("is_thresholded", True),)
    drawn = draw("cfg", settings=settings, guidance_scale=8.0, threshold_quantile=0.9)
    assert np.abs(drawn).max() <= 1 + 1e-5
    assert np.abs(drawn - draw("cfg", guidance_scale=8.0)).max() > 0.01


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"guidance_mode": "both"}, "guidance_mode='both'"),
        ({"sampler": "euler"}, "sampler='euler'"),
        ({"respacing": "many"}, "respacing='many'"),
        ({"guidance_mode": "clip"}, "needs a noised CLIP"),
        ({"inpaint_mode": "pinned"}, "takes no inpainting mask"),
        ({"inpaint_mode": "painted"}, "inpaint_mode='painted'"),
        ({"match_low_res": True}, "takes no small picture"),
        ({"inverts": True}, "use sampler=ddim"),
    ],
)
def test_an_impossible_stage_is_refused_by_name(models, change, named):
    base = models["base"]
    settings = stage.StageSettings(**{"respacing": "4", **change})
    with pytest.raises(errors.UserError, match=named):
        stage.make_stage(base.config, base.fns, settings)


def _equality_cases():
    """Models and settings; each takes two compilations, so that most are slow."""
    yield "base", {"guidance_mode": "cfg+clip", "sampler": "plms"}
    yield "base", {"sampler": "ddim", "strength": 0.4, "inverts": True}
    yield "base_inpaint", {"inpaint_mode": "pinned", "is_thresholded": True}
    for name, changes in (
        ("base", {}),
        ("base", {"sampler": "dpm_solver_pp", "respacing": "27"}),
        ("base", {"strength": 0.0}),
        ("base", {"inpaint_mode": "implicit", "respacing": "3"}),
        ("upsampler", {"guidance_mode": "none", "match_low_res": True}),
    ):
        yield pytest.param(name, changes, marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "changes"), _equality_cases())
def test_segments_draw_what_one_program_draws(models, name, changes):
    model, side = models[name], models[name].config.model.image_px
    strength = changes.pop("strength", None)
    settings = stage.StageSettings(**{"respacing": "20", **changes})
    rng = np.random.default_rng(0)
    picture = rng.uniform(-1, 1, (2, side, side, 3)).astype(np.float32)
    given = {}
    if strength is not None:
        given = {"init_image": picture, "strength": strength}
        given["source_caption"] = prompt_tokens.encode(model, PROMPTS[::-1])
    if settings.inpaint_mode:
        mask = rng.integers(0, 2, (2, side, side, 1)).astype(np.float32)
        given = {"inpaint_image": picture, "inpaint_mask": mask}
    if settings.match_low_res:
        given["low_res"] = picture[:, ::2, ::2]
    inputs = stage_inputs.with_array_scalars(
        make_inputs(models, guidance_scale=3.0, clip_guidance_scale=2.0, **given)
    )
    arguments = model.config, model.fns, settings, models["clip"].fns
    params = model.params, models["clip"].params
    shares = []
    drawn = stage.make_stage(*arguments)(*params, inputs, shares.append)
    whole = jax.jit(stage.make_program(*arguments))(*params, inputs)
    # To the bit by JAX's default code generator; the tests' own rounds otherwise.
    np.testing.assert_allclose(drawn, whole, atol=2e-6)
    assert sum(shares) == 1
    assert len(shares) in (2, 16)


def test_what_a_share_raises_ends_the_drawing(models):
    def stop(share):
        raise KeyboardInterrupt

    draw_one = make(models, "none")
    params = models["base"].params, models["clip"].params
    with pytest.raises(KeyboardInterrupt):
        draw_one(*params, make_inputs(models), stop)
