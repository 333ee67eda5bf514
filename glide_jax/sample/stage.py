"""One sampling stage as one compiled program: text once, then a scan over timesteps.

A stage is the base model or the upsampler. What changes the program is static: the
guidance mode, the step rule, the timesteps kept, inpainting. Everything that a user
turns (scales, eta, temperature) is traced, so that turning it never recompiles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from glide_jax import errors, shapes
from glide_jax.config import defaults
from glide_jax.diffusion import (
    guidance,
    inpainting,
    low_res,
    process,
    respacing,
    samplers,
)
from glide_jax.models import build, noised_clip

GUIDANCE_MODES = ("none", "cfg", "clip", "cfg+clip")


class Caption(NamedTuple):
    """A batch of tokenised captions, (B, L) each."""

    tokens: shapes.Tokens
    text_mask: shapes.TextMask


class StageInputs(NamedTuple):
    """What one call of a stage takes beside parameters; arrays lead with the batch.

    Attributes:
        keys: (B,) typed keys, one per image: all of its randomness.
        caption: What to draw, in the denoiser's tokens.
        empty: The empty caption, for classifier-free guidance.
        clip_caption: The same captions in the CLIP's tokens, for CLIP guidance.
        guidance_scale: Classifier-free; 1 is off.
        clip_guidance_scale: Of the similarity's gradient; 0 is off.
        eta: Share of fresh noise in a DDIM step, 0 to 1; DDPM ignores it.
        noise_temperature: Factor on the starting noise.
        low_res: (B, h, w, 3) in [-1, 1], what an upsampler enlarges.
        inpaint_image: (B, H, W, 3) in [-1, 1], the known picture.
        inpaint_mask: (B, H, W, 1), 1 = known, 0 = to fill.
    """

    keys: shapes.PRNGKeys
    caption: Caption
    empty: Caption | None = None
    clip_caption: Caption | None = None
    guidance_scale: shapes.Scalar = 1.0
    clip_guidance_scale: shapes.Scalar = 0.0
    eta: shapes.Scalar = 0.0
    noise_temperature: shapes.Scalar = 1.0
    low_res: shapes.Image | None = None
    inpaint_image: shapes.Image | None = None
    inpaint_mask: shapes.Image | None = None


# (params, clip_params or None, inputs) -> x_start (B, H, W, 3) float32
Stage = Callable[[shapes.Params, shapes.Params | None, StageInputs], jax.Array]

_SCALARS = ("guidance_scale", "clip_guidance_scale", "eta", "noise_temperature")


def make_stage(
    config: defaults.Config,
    fns: build.DenoiserFns,
    *,
    guidance_mode: str,
    sampler: str,
    respacing: str,
    clip_fns: build.ClipFns | None = None,
    inpaint: bool = False,
    match_low_res: bool = False,
) -> Stage:
    """The compiled sampling program of one model; compiles at its first call.

    Args:
        config: The run that trained the model: its size and its diffusion.
        fns: The model.
        guidance_mode: "none" (the caption, one pass), "cfg", "clip" or "cfg+clip".
        sampler: "ddpm" or "ddim".
        respacing: Timesteps kept, e.g. "150", "fast27", "" for all.
        clip_fns: The noised CLIP, for the modes that use one.
        inpaint: Pin the known pixels of inpaint_image; needs an inpainting model.
        match_low_res: Pin the area means to low_res; needs an upsampler.

    Raises:
        UserError: Unknown mode, sampler or respacing; a CLIP mode without a CLIP;
            inpaint with a model that takes no mask; match_low_res without low_res.
    """
    _check(config, guidance_mode, sampler, clip_fns)
    _check_conditions(config, inpaint, match_low_res)
    program = functools.partial(
        _sample,
        fns=fns,
        clip_fns=clip_fns if "clip" in guidance_mode else None,
        tables=_tables(config, respacing),
        image_px=config.model.image_px,
        is_guided="cfg" in guidance_mode,
        rule=sampler,
        inpaint=inpaint,
        match_low_res=match_low_res,
    )
    compiled = jax.jit(program)

    def stage(
        params: shapes.Params, clip_params: shapes.Params | None, inputs: StageInputs
    ) -> jax.Array:
        return compiled(params, clip_params, _with_array_scalars(inputs))

    return stage


def _sample(
    params: shapes.Params,
    clip_params: shapes.Params | None,
    inputs: StageInputs,
    *,
    fns: build.DenoiserFns,
    clip_fns: build.ClipFns | None,
    tables: process.DiffusionTables,
    image_px: int,
    is_guided: bool,
    rule: str,
    inpaint: bool,
    match_low_res: bool,
) -> jax.Array:
    """Images x_start in [-1, 1] (a strong CLIP gradient may leave the range)."""
    project = _make_projection(inputs, inpaint, match_low_res)
    gradient_fn = None
    if clip_fns is not None:
        gradient_fn = _make_gradient(clip_fns, clip_params, inputs)
    x_init = samplers.initial_noise(
        inputs.keys, (image_px, image_px, 3), inputs.noise_temperature
    )
    x_start = samplers.sample_loop(
        _make_denoise(fns, params, inputs, is_guided),
        tables,
        x_init,
        inputs.keys,
        rule=rule,
        eta=inputs.eta,
        gradient_fn=gradient_fn,
        denoised_fn=project,
    )
    # A guidance gradient also moves what is known, after the last projection.
    return x_start if project is None else project(x_start)


def _make_projection(
    inputs: StageInputs, inpaint: bool, match_low_res: bool
) -> process.DenoisedFn | None:
    """Puts what is known into x_start; known pixels have the last word."""
    if not inpaint and not match_low_res:
        return None

    def project(x_start: shapes.Image) -> jax.Array:
        if match_low_res:
            x_start = low_res.match_low_res(x_start, inputs.low_res)
        if inpaint:
            x_start = inpainting.project(
                x_start, inputs.inpaint_image, inputs.inpaint_mask
            )
        return x_start

    return project


def _make_denoise(
    fns: build.DenoiserFns,
    params: shapes.Params,
    inputs: StageInputs,
    is_guided: bool,
) -> samplers.Denoise:
    """The denoiser with its text encoded; guided: one doubled batch [cond; uncond].

    Both halves see the same x_t, so the pair differs in its caption alone.
    """
    pair = _twice if is_guided else lambda tree: tree
    caption = inputs.caption
    if is_guided:
        caption = jax.tree.map(
            lambda *halves: jnp.concatenate(halves), caption, inputs.empty
        )
    text = fns.encode(params, *caption)
    conditions = {
        "low_res": pair(inputs.low_res),
        "inpaint_image": pair(inputs.inpaint_image),
        "inpaint_mask": pair(inputs.inpaint_mask),
    }

    def denoise(x_t: shapes.Image, timesteps: shapes.Timesteps) -> jax.Array:
        model_output = fns.denoise(
            params, pair(x_t), pair(timesteps), text, **conditions
        )
        if not is_guided:
            return model_output
        cond_output, uncond_output = jnp.split(model_output, 2)
        return guidance.classifier_free(
            cond_output, uncond_output, inputs.guidance_scale
        )

    return denoise


def _make_gradient(
    clip_fns: build.ClipFns, clip_params: shapes.Params, inputs: StageInputs
) -> samplers.GradientFn:
    """The gradient of exp(logit_scale) * cosine(x_t, caption), times its scale."""
    text = clip_fns.encode_text(clip_params, *inputs.clip_caption)
    logit_scale = clip_fns.logit_scale(clip_params)

    def gradient_fn(x_t: shapes.Image, timesteps: shapes.Timesteps) -> jax.Array:
        def similarity(images: shapes.Image) -> jax.Array:
            features = clip_fns.encode_image(clip_params, images, timesteps)
            return logit_scale * noised_clip.similarity(features, text)

        return guidance.similarity_gradient(similarity, x_t, inputs.clip_guidance_scale)

    return gradient_fn


def _twice(tree):
    return jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), tree)


def _with_array_scalars(inputs: StageInputs) -> StageInputs:
    """Every scale as a float32 array: an int and a float would be two programs."""
    return inputs._replace(
        **{name: jnp.float32(getattr(inputs, name)) for name in _SCALARS}
    )


def _tables(config: defaults.Config, spec: str) -> process.DiffusionTables:
    diffusion = config.diffusion
    return respacing.respaced_tables(diffusion.schedule, diffusion.num_timesteps, spec)


def _check(
    config: defaults.Config,
    guidance_mode: str,
    sampler: str,
    clip_fns: build.ClipFns | None,
) -> None:
    if guidance_mode not in GUIDANCE_MODES:
        raise errors.UserError(
            f"guidance_mode={guidance_mode!r} is not one of {', '.join(GUIDANCE_MODES)}"
        )
    if sampler not in samplers.SAMPLERS:
        raise errors.UserError(
            f"sampler={sampler!r} is not one of {', '.join(samplers.SAMPLERS)}"
        )
    if "clip" in guidance_mode and clip_fns is None:
        raise errors.UserError(
            f"guidance_mode={guidance_mode} needs a noised CLIP and none was given; "
            "give one with --clip, or use guidance_mode=cfg"
        )


def _check_conditions(
    config: defaults.Config, inpaint: bool, match_low_res: bool
) -> None:
    if inpaint and not config.model.inpaint:
        raise errors.UserError(
            f"model {config.name!r} takes no inpainting mask (model.inpaint=False); "
            "use a bundle trained with model.inpaint=True"
        )
    if match_low_res and not config.model.low_res_px:
        raise errors.UserError(
            f"match_low_res=True means nothing to model {config.name!r}, which takes "
            "no small picture (model.low_res_px=0); leave it out"
        )
