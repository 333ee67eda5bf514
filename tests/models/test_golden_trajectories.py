"""Sampling trajectories compared with the released code's.

Tolerances are the golden files': 1e-2 where timestep 999 amplifies a rounding error by
2e4 and guidance amplifies it further; the reference itself moves as much when its
weights move by half a unit in the last place.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glide_jax.diffusion import guidance, inpainting, respacing, single_step
from glide_jax.models import build, noised_clip
from tests.models import golden_models

SQUAREDCOS = functools.partial(respacing.respaced_tables, "squaredcos_cap_v2", 1000)


def _stored(run, name):
    return golden_models.arrays()[f"sample/{run}/{name}"]


def _walk(run, tables, denoise, step, x_t, noise):
    """Images after every step, the first axis in order of sampling."""
    samples = []
    for row, index in enumerate(range(tables.num_timesteps - 1, -1, -1)):
        t = np.full(x_t.shape[:1], index, np.int32)
        timesteps = np.asarray(tables.timesteps)[t]
        assert timesteps[0] == _stored(run, "timesteps")[row]
        x_t = step(tables, denoise(x_t, timesteps), x_t, t, noise[row]).x_prev
        samples.append(np.asarray(x_t))
    return np.stack(samples)


def _conditional(kind):
    encode, denoise = golden_models.denoiser(kind)
    params = golden_models.params(kind)
    text = encode(params, *golden_models.caption())
    pictures = golden_models.pictures(kind)
    return lambda x, timesteps: denoise(params, x, timesteps, text, **pictures)


def _guided(kind, scale):
    encode, denoise = golden_models.denoiser(kind)
    params = golden_models.params(kind)
    tokens, text_mask = golden_models.caption()
    empty = np.full_like(tokens, 96), np.zeros_like(text_mask)
    text = encode(
        params,
        np.concatenate([tokens, empty[0]]),
        np.concatenate([text_mask, empty[1]]),
    )
    pictures = {
        name: np.concatenate([value, value])
        for name, value in golden_models.pictures(kind).items()
    }

    def combined(x, timesteps):
        x = jnp.concatenate([x, x])
        timesteps = np.concatenate([timesteps, timesteps])
        cond, uncond = jnp.split(denoise(params, x, timesteps, text, **pictures), 2)
        return guidance.classifier_free(cond, uncond, scale)

    return combined


@pytest.mark.parametrize(
    ("run", "step"),
    [
        ("ddpm", single_step.ddpm_step),
        ("ddim_eta0", single_step.ddim_step),
        ("ddim_eta0.7", functools.partial(single_step.ddim_step, eta=0.7)),
    ],
)
def test_an_unguided_trajectory_equals_the_released_one(run, step):
    noise, x_start_noise = _stored(run, "noise"), _stored(run, "x_T")
    denoise = _conditional("base")
    samples = _walk(run, SQUAREDCOS("8"), denoise, step, x_start_noise, noise)
    assert golden_models.error(samples, _stored(run, "samples")) < 1e-4


@pytest.mark.parametrize("run", ["cfg3_ddpm", "cfg3_ddim", "inpaint_cfg5_ddpm"])
def test_a_guided_trajectory_equals_the_released_one(run):
    step = single_step.ddim_step if run.endswith("ddim") else single_step.ddpm_step
    denoise = _guided("base", 3.0)
    if run.startswith("inpaint"):
        denoise = _guided("base-inpaint", 5.0)
        known = golden_models.pictures("base-inpaint")
        step = functools.partial(
            step, denoised_fn=functools.partial(inpainting.project, **known)
        )
    noise, start = _stored(run, "noise")[:, :2], _stored(run, "x_T")[:2]
    samples = _walk(run, SQUAREDCOS("8"), denoise, step, start, noise)
    # The stored second half repeats the run with the unconditional variance.
    expected = _stored(run, "samples")[:, :2]
    assert golden_models.error(samples, expected) < 1e-2


@pytest.mark.parametrize("run", ["clip3_ddpm", "clip3_ddim"])
def test_a_clip_guided_trajectory_equals_the_released_one(run):
    plain = single_step.ddim_step if run.endswith("ddim") else single_step.ddpm_step
    tables, gradient_fn = SQUAREDCOS("8"), _clip_gradient()

    def step(tables, model_output, x_t, t, noise):
        gradient = gradient_fn(x_t, np.asarray(tables.timesteps)[t])
        return plain(tables, model_output, x_t, t, noise, gradient=gradient)

    noise, start = _stored(run, "noise"), _stored(run, "x_T")
    samples = _walk(run, tables, _conditional("base"), step, start, noise)
    assert golden_models.error(samples, _stored(run, "samples")) < 1e-2


@functools.cache
def _clip_gradient():
    """Jitted (x_t, timesteps) -> guidance gradient of the golden CLIP at scale 3."""
    fns, params = build.make_clip(golden_models.CLIP), golden_models.clip_params()
    text_features = golden_models.arrays()["clip/text_features"]

    @jax.jit
    def gradient(x_t, timesteps):
        def similarity(x_t):
            features = fns.encode_image(params, x_t, timesteps)
            cosine = noised_clip.similarity(features, text_features)
            return fns.logit_scale(params) * cosine

        return guidance.similarity_gradient(similarity, x_t, 3.0)

    return gradient


def test_the_upsampler_trajectory_equals_the_released_one():
    run = "upsample_fast27_ddim"
    encode, denoise = golden_models.denoiser("upsample")
    params = golden_models.params("upsample")
    text = encode(params, *golden_models.caption())
    low_res = golden_models.inputs("low_res8")
    low_res = np.round((low_res + 1) * 127.5) / 127.5 - 1
    tables = respacing.respaced_tables("linear", 1000, "fast27")
    start = _stored(run, "x_T")
    samples = _walk(
        run,
        tables,
        lambda x, timesteps: denoise(params, x, timesteps, text, low_res=low_res),
        single_step.ddim_step,
        start,
        np.zeros((27, *start.shape), np.float32),
    )
    kept = samples[[0, 9, 18, 25, 26]]
    assert golden_models.error(kept, _stored(run, "samples")) < 1e-2


def test_the_reverse_trajectory_equals_the_released_one():
    run, tables, denoise = "ddim_reverse", SQUAREDCOS("8"), _conditional("base")
    x_t, samples = _stored(run, "x_start"), []
    for index in range(7):
        t = np.full(x_t.shape[:1], index, np.int32)
        out = denoise(x_t, np.asarray(tables.timesteps)[t])
        x_t = single_step.ddim_reverse_step(tables, out, x_t, t).x_next
        samples.append(np.asarray(x_t))
    assert golden_models.error(np.stack(samples), _stored(run, "samples")) < 1e-4
