"""Laws of one compiled stage."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax import errors
from glide_jax.diffusion import guidance, respacing, samplers
from glide_jax.sample import batches, stage
from glide_jax.text import tokenizers

PROMPTS = ["a big r circle", "a small g circle"]


def make(models, mode, *, sampler="ddpm", fns=None):
    base = models["base"]
    return stage.make_stage(
        base.config,
        fns or base.fns,
        guidance_mode=mode,
        sampler=sampler,
        respacing="4",
        clip_fns=models["clip"].fns,
    )


def make_inputs(models, **scales) -> stage.StageInputs:
    def caption(tokenizer):
        return stage.Caption(*tokenizer.encode_batch(PROMPTS, 8))

    tokenizer = models["base"].tokenizer
    return stage.StageInputs(
        keys=batches.image_keys(0, 0, len(PROMPTS), 0),
        caption=caption(tokenizer),
        empty=stage.Caption(*tokenizers.empty_batch(tokenizer, len(PROMPTS), 8)),
        clip_caption=caption(models["clip"].tokenizer),
        **scales,
    )


class Draw:
    """draw(mode, sampler, **scales) -> x_start, each program compiled once.

    `traces` counts how often a program's denoiser was traced.
    """

    def __init__(self, models):
        self.models = models
        self.stages = {}
        self.traces = 0

    def __call__(self, mode, sampler="ddpm", **scales):
        models, key = self.models, (mode, sampler)
        if key not in self.stages:
            fns = models["base"].fns._replace(denoise=self._denoise)
            self.stages[key] = make(models, mode, sampler=sampler, fns=fns)
        params = models["base"].params, models["clip"].params
        return np.asarray(self.stages[key](*params, make_inputs(models, **scales)))

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


@pytest.mark.parametrize("rule", ["ddpm", "ddim"])
def test_the_doubled_batch_equals_two_passes_step_by_step(models, draw, rule):
    base, clip = models["base"], models["clip"]
    inputs = make_inputs(models)
    cond = base.fns.encode(base.params, *inputs.caption)
    uncond = base.fns.encode(base.params, *inputs.empty)
    denoise = jax.jit(base.fns.denoise)
    text = clip.fns.encode_text(clip.params, *inputs.clip_caption)
    text = text / jnp.linalg.norm(text, axis=-1, keepdims=True)

    @jax.jit
    def gradient(x_t, timesteps):
        def objective(x):
            z = clip.fns.encode_image(clip.params, x, timesteps)
            z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
            return jnp.exp(clip.params["logit_scale"]) * jnp.sum(z * text)

        return 2.0 * jax.grad(objective)(x_t)

    tables = respacing.respaced_tables("squaredcos_cap_v2", 1000, "4")
    step = {"ddpm": samplers.ddpm_step, "ddim": samplers.ddim_step}[rule]
    step = jax.jit(step)
    x_t = samplers.initial_noise(inputs.keys, (8, 8, 3))
    for index, timestep in ((3, 999), (2, 666), (1, 333), (0, 0)):
        t, timesteps = jnp.full(2, index), jnp.full(2, timestep)
        output = guidance.classifier_free(
            denoise(base.params, x_t, timesteps, cond),
            denoise(base.params, x_t, timesteps, uncond),
            3.0,
        )
        noise = samplers.step_noise(inputs.keys, t, (8, 8, 3))
        shift = gradient(x_t, timesteps)
        x_t = step(tables, output, x_t, t, noise, gradient=shift).x_prev
    drawn = draw("cfg+clip", rule, guidance_scale=3.0, clip_guidance_scale=2.0)
    # Relative, since the score shift is not clipped and can leave [-1, 1] by far; a
    # rounding error at timestep 999 grows by up to 2e4.
    scale = max(1.0, float(np.abs(x_t).max()))
    np.testing.assert_allclose(drawn / scale, np.asarray(x_t) / scale, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"guidance_mode": "both"}, "guidance_mode='both'"),
        ({"sampler": "euler"}, "sampler='euler'"),
        ({"respacing": "many"}, "respacing='many'"),
        ({"guidance_mode": "clip"}, "needs a noised CLIP"),
        ({"inpaint": True}, "takes no inpainting mask"),
        ({"match_low_res": True}, "takes no small picture"),
    ],
)
def test_an_impossible_stage_is_refused_by_name(models, change, named):
    base = models["base"]
    arguments = {"guidance_mode": "cfg", "sampler": "ddpm", "respacing": "4"}
    with pytest.raises(errors.UserError, match=named):
        stage.make_stage(base.config, base.fns, **(arguments | change))
