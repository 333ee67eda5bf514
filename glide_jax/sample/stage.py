"""One sampling stage: the text is encoded once, then a loop runs over the timesteps.

A stage is the base model or the upsampler. `StageSettings` has the static settings,
which change the program. Scales, intervals, strength, temperature, prompts and masks
are traced, so other values never recompile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp

from glide_jax import array_types
from glide_jax.config import defaults
from glide_jax.diffusion import (
    inpainting,
    low_res,
    process,
    respacing,
    samplers,
    sampling_loop,
    thresholding,
)
from glide_jax.errors import UserError
from glide_jax.models import build
from glide_jax.runtime import random_streams
from glide_jax.sample import (
    guided_denoiser,
    option_checks,
    options,
    segments,
    student_checks,
)
from glide_jax.sample.segments import Stage
from glide_jax.sample.stage_inputs import StageInputs


@dataclasses.dataclass(frozen=True)
class StageSettings:
    """The static settings of a program.

    Attributes:
      guidance_mode: "none" (the caption, one pass), "cfg", "clip" or "cfg+clip".
      sampler: one of `samplers.SAMPLERS`.
      respacing: timesteps kept, e.g. "150", "fast27", "lambda20", "" for all.
      inpaint_mode: None; "pinned" (the model reads the known pixels, and they are
        pinned in every x_start, as in the released code), "masked" (pinned, but the
        model does not read them) or "implicit" (the model does not read them; after
        each step the known region is noised again: the paper's appendix E). Only
        "pinned" needs an inpainting model.
      match_low_res: pin the area means to low_res; needs an upsampler.
      is_thresholded: dynamic thresholding instead of the clip to [-1, 1].
      inverts: start from init_image by DDIM inversion instead of by noising it.
    """

    guidance_mode: str = "cfg"
    sampler: str = "ddpm"
    respacing: str = "150"
    inpaint_mode: str | None = None
    match_low_res: bool = False
    is_thresholded: bool = False
    inverts: bool = False

    @classmethod
    def of(
        cls,
        sample: defaults.SampleConfig,
        guidance_mode: str,
        *,
        inpaint_mode: str | None = None,
        is_thresholded: bool = False,
        inverts: bool = False,
    ) -> StageSettings:
        """Returns the static part of a model's sampling settings."""
        return cls(
            guidance_mode=guidance_mode,
            sampler=sample.sampler,
            respacing=sample.respacing,
            inpaint_mode=inpaint_mode,
            match_low_res=sample.match_low_res,
            is_thresholded=is_thresholded,
            inverts=inverts,
        )


# (params, clip_params or None, inputs) -> x_start (B, H, W, 3) float32
Program = Callable[
    [array_types.Params, array_types.Params | None, StageInputs], jax.Array
]


def make_stage(
    config: defaults.Config,
    fns: build.DenoiserFns,
    settings: StageSettings,
    clip_fns: build.ClipFns | None = None,
) -> Stage:
    """Returns the compiled sampling program of one model.

    Args:
      config: settings of the run that trained the model.
      fns: functions of the model.
      settings: static settings of the program.
      clip_fns: functions of the noised CLIP, for the modes that use one.

    Raises:
      UserError: as `make_program`.
    """
    parts = _make_parts(config, fns, settings, clip_fns)
    longest = num_steps(config, settings)
    num_segments = min(segments.MAX_SEGMENTS, 1 << (longest.bit_length() - 1))
    estimate = _make_estimate(config, fns, settings, clip_fns)
    return Stage(segments.Parts(*map(jax.jit, parts)), num_segments, jax.jit(estimate))


def num_steps(config: defaults.Config, settings: StageSettings) -> int:
    """Returns the number of steps of a whole image."""
    return _tables(config, settings).num_timesteps


def make_program(
    config: defaults.Config,
    fns: build.DenoiserFns,
    settings: StageSettings,
    clip_fns: build.ClipFns | None = None,
) -> Program:
    """Returns the sampling program as one pure function; arguments as `make_stage`.

    Raises:
      UserError: an unknown mode, sampler or respacing; a CLIP mode without a CLIP;
        pinned inpainting with a model that takes no mask; match_low_res without
        low_res; inversion with a sampler other than ddim.
    """
    parts = _make_parts(config, fns, settings, clip_fns)

    def program(
        params: array_types.Params,
        clip_params: array_types.Params | None,
        inputs: StageInputs,
    ) -> jax.Array:
        """Returns x_start in [-1, 1], except where a strong CLIP gradient leaves it."""
        arguments = params, clip_params, inputs
        context, state = parts.begin(*arguments)
        state = parts.advance(*arguments, context, state, 0, 1)
        return parts.finish(inputs, state)

    return program


def _make_parts(
    config: defaults.Config,
    fns: build.DenoiserFns,
    settings: StageSettings,
    clip_fns: build.ClipFns | None,
) -> segments.Parts:
    """Returns the parts of the program; raises UserError as `make_program`."""
    check(config, settings, has_clip=clip_fns is not None)
    tables, mode = _tables(config, settings), settings.guidance_mode

    def begin(params, clip_params, inputs):
        text = guided_denoiser.encode(
            config, fns, params, inputs, is_guided="cfg" in mode
        )
        clip_text = None
        if clip_fns is not None and "clip" in mode:
            clip_text = guided_denoiser.encode_for_clip(clip_fns, clip_params, inputs)
        num_steps, x_init = _start(config, fns, params, inputs, tables, settings)
        state = sampling_loop.start(x_init, settings.sampler)
        return segments.Context(text, clip_text, num_steps), state

    def advance(params, clip_params, inputs, context, state, segment, num_segments):
        denoise, gradient_fn = guided_denoiser.make_calls(
            *(config, fns, clip_fns, params, clip_params, inputs, context),
            guidance_mode=settings.guidance_mode,
            sampler=settings.sampler,
            sees_known=settings.inpaint_mode == "pinned",
        )
        return sampling_loop.walk(
            denoise,
            tables,
            state,
            inputs.keys,
            context.num_steps * segment // num_segments,
            context.num_steps * (segment + 1) // num_segments,
            rule=settings.sampler,
            eta=inputs.eta,
            num_steps=context.num_steps,
            gradient_fn=gradient_fn,
            denoised_fn=_make_denoised(inputs, settings),
            clip_denoised=not settings.is_thresholded,
            after_step=_make_after_step(inputs, settings, tables),
        )

    def finish(inputs, state):
        return _pin_last(state.x_t, inputs, settings)

    return segments.Parts(begin, advance, finish)


def _make_estimate(
    config: defaults.Config,
    fns: build.DenoiserFns,
    settings: StageSettings,
    clip_fns: build.ClipFns | None,
) -> Callable[..., array_types.Image]:
    """Returns the function that predicts x_start between two steps; see `Stage`."""
    tables = _tables(config, settings)

    def estimate(params, clip_params, inputs, context, state, num_made):
        denoise, gradient_fn = guided_denoiser.make_calls(
            *(config, fns, clip_fns, params, clip_params, inputs, context),
            guidance_mode=settings.guidance_mode,
            sampler=settings.sampler,
            sees_known=settings.inpaint_mode == "pinned",
        )
        return sampling_loop.predict(
            *(denoise, tables, state, context.num_steps - num_made),
            gradient_fn=gradient_fn,
            denoised_fn=_make_denoised(inputs, settings),
            clip_denoised=not settings.is_thresholded,
        )

    return estimate


def _tables(
    config: defaults.Config, settings: StageSettings
) -> process.DiffusionTables:
    diffusion = config.diffusion
    return respacing.respaced_tables(
        diffusion.schedule,
        diffusion.num_timesteps,
        settings.respacing,
        prediction=diffusion.prediction,
    )


def _start(
    config: defaults.Config,
    fns: build.DenoiserFns,
    params: array_types.Params,
    inputs: StageInputs,
    tables: process.DiffusionTables,
    settings: StageSettings,
) -> tuple[jax.Array | int, array_types.Image]:
    """Returns the number of steps and the x_t of the first one."""
    side = config.model.image_px
    noise = sampling_loop.initial_noise(
        inputs.keys, (side, side, 3), inputs.noise_temperature
    )
    if inputs.init_image is None:
        return tables.num_timesteps, noise
    image = jnp.asarray(inputs.init_image)
    # A share of the training chain, so that it is the same noise in any respacing.
    first = inputs.strength * config.diffusion.num_timesteps
    num_steps = jnp.sum(jnp.asarray(tables.timesteps) < first).astype(jnp.int32)
    if settings.inverts:
        assert inputs.source_caption is not None
        source = inputs._replace(
            caption=inputs.source_caption,
            weights=inputs.source_weights,
            low_res=_shrink_like(image, inputs.low_res),
        )
        text = guided_denoiser.encode(config, fns, params, source, is_guided=False)
        denoise = guided_denoiser.make_denoise(
            config, fns, params, text, source, is_guided=False
        )
        x_t = sampling_loop.invert(denoise, tables, image, num_steps=num_steps)
        return num_steps, x_t
    t = jnp.full(image.shape[:1], jnp.maximum(num_steps - 1, 0), jnp.int32)
    x_t = process.q_sample(tables, image, t, noise)
    return num_steps, jnp.where(num_steps > 0, x_t, image)


def _shrink_like(
    image: jax.Array, low_res: array_types.Image | None
) -> jax.Array | None:
    """Returns the area means of `image` at the size of low_res."""
    if low_res is None:
        return None
    _, height, width, _ = low_res.shape
    return einops.reduce(image, "b (h f) (w g) c -> b h w c", "mean", h=height, w=width)


def _pin_last(
    x_start: array_types.Image, inputs: StageInputs, settings: StageSettings
) -> array_types.Image:
    """Restores known pixels in x_start, which guidance gradients have moved.

    The last step has blended soft edges; blending them twice would harden them.
    """
    if inputs.inpaint_mask is not None:
        is_known = jnp.asarray(inputs.inpaint_mask) >= 1
        inputs = inputs._replace(inpaint_mask=is_known.astype(jnp.float32))
    pin = _make_pin(inputs, settings)
    return x_start if pin is None else pin(x_start)


def _make_pin(
    inputs: StageInputs, settings: StageSettings
) -> process.DenoisedFn | None:
    """Returns the function that pins area means, then known pixels; None without."""
    pins_pixels = settings.inpaint_mode is not None
    if not pins_pixels and not settings.match_low_res:
        return None

    def pin(x_start: array_types.Image) -> array_types.Image:
        if settings.match_low_res:
            assert inputs.low_res is not None
            x_start = low_res.match_low_res(x_start, inputs.low_res)
        if pins_pixels:
            image, mask = inputs.inpaint_image, inputs.inpaint_mask
            assert image is not None
            assert mask is not None
            x_start = inpainting.project(x_start, image, mask)
        return x_start

    return pin


def _make_denoised(
    inputs: StageInputs, settings: StageSettings
) -> process.DenoisedFn | None:
    """Returns the function applied to each x_start before the clip, if any."""
    pin = _make_pin(inputs, settings)
    if settings.inpaint_mode == "implicit":
        # The known pixels are inserted after the step only.
        pin = _make_pin(inputs, dataclasses.replace(settings, inpaint_mode=None))
    if not settings.is_thresholded:
        return pin

    def denoised(x_start: array_types.Image) -> array_types.Image:
        x_start = thresholding.dynamic_threshold(x_start, inputs.threshold_quantile)
        return x_start if pin is None else pin(x_start)

    return denoised


def _make_after_step(
    inputs: StageInputs, settings: StageSettings, tables: process.DiffusionTables
) -> sampling_loop.AfterStep | None:
    """Returns the function that noises the known region, for implicit inpainting."""
    image, mask = inputs.inpaint_image, inputs.inpaint_mask
    if settings.inpaint_mode != "implicit" or image is None or mask is None:
        return None

    def after_step(
        x_prev: array_types.Image, t: array_types.Timesteps
    ) -> array_types.Image:
        # Not the step's own noise, which the two regions would share.
        keys = random_streams.fold_each(inputs.keys, random_streams.KNOWN_NOISE)
        noise = sampling_loop.step_noise(keys, t, x_prev.shape[1:])
        return inpainting.renoise_known(tables, x_prev, t, image, mask, noise)

    return after_step


def check(config: defaults.Config, settings: StageSettings, *, has_clip: bool) -> None:
    """Raises UserError as `make_program`, without making the program."""
    for name, known in (
        ("guidance_mode", options.GUIDANCE_MODES),
        ("sampler", tuple(samplers.SAMPLERS)),
        ("inpaint_mode", options.INPAINT_MODES),
    ):
        if getattr(settings, name) is not None:
            option_checks.check_choice(name, getattr(settings, name), known)
    diffusion, size = config.diffusion, config.model
    respacing.kept_timesteps(
        diffusion.num_timesteps, settings.respacing, diffusion.schedule
    )
    assert isinstance(size, defaults.Text2ImConfig)
    student_checks.check_steps(
        config,
        sampler=settings.sampler,
        respacing=settings.respacing,
        inverts=settings.inverts,
    )
    if "clip" in settings.guidance_mode and not has_clip:
        raise UserError(
            f"guidance_mode={settings.guidance_mode} needs a noised CLIP and none was "
            "given; give one with --clip, or use guidance_mode=cfg"
        )
    if settings.inpaint_mode == "pinned" and not size.inpaint:
        raise UserError(
            f"model {config.name!r} takes no inpainting mask (model.inpaint=False); "
            "use a bundle trained with model.inpaint=True, or inpaint_mode=implicit"
        )
    if settings.match_low_res and not size.low_res_px:
        raise UserError(
            f"match_low_res=True has no effect on model {config.name!r}, which takes "
            "no small picture (model.low_res_px=0); leave it out"
        )
    if settings.inverts and settings.sampler != "ddim":
        raise UserError(
            f"sampler={settings.sampler} cannot reverse an inversion; use sampler=ddim"
        )
