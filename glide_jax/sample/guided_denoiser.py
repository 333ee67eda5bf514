"""Makes the functions that a sampling loop calls, from a model and its captions.

Captions are encoded once, outside the loop; the empty caption or negative prompt once
for a whole batch. A student that reads the guidance scale (model.guidance_range) has no
rows of the empty caption.
"""

from __future__ import annotations

import einops
import jax
import jax.numpy as jnp
import numpy as np

from glide_jax import array_types
from glide_jax.config import defaults
from glide_jax.diffusion import guidance, process, sampling_loop, schedules
from glide_jax.models import build, noised_clip
from glide_jax.sample import segments
from glide_jax.sample.stage_inputs import Caption, StageInputs

MAX_CLIP_FACTOR = 10.0


def reads_scale(config: defaults.Config) -> bool:
    """Whether one row of the model is guided: it reads the guidance scale."""
    assert isinstance(config.model, defaults.Text2ImConfig)
    return bool(config.model.guidance_range)


def encode(
    config: defaults.Config,
    fns: build.DenoiserFns,
    params: array_types.Params,
    inputs: StageInputs,
    *,
    is_guided: bool,
) -> build.TextConditioning:
    """Returns the encoded captions: rows of every caption, then of the empty one."""
    batch = inputs.caption.tokens.shape[0]
    text = fns.encode(params, *_caption_major(inputs.caption))
    if not is_guided or reads_scale(config):
        return text
    assert inputs.empty is not None
    empty = fns.encode(params, *inputs.empty)
    return jax.tree.map(
        lambda some, one: jnp.concatenate(
            [some, jnp.broadcast_to(one, (batch, *one.shape[1:]))]
        ),
        text,
        empty,
    )


def make_denoise(
    config: defaults.Config,
    fns: build.DenoiserFns,
    params: array_types.Params,
    text: build.TextConditioning,
    inputs: StageInputs,
    *,
    is_guided: bool,
) -> sampling_loop.Denoise:
    """Returns the denoiser of one caption an image or several blended, maybe guided.

    `text` is from `encode`, with the same other arguments. One batch has the rows of
    every caption, then those of the empty one, all with the same x_t.
    """
    if reads_scale(config):
        return _make_folded(fns, params, text, inputs, is_guided=is_guided)
    prediction = config.diffusion.prediction
    num_captions = inputs.caption.tokens.shape[1]
    rows = num_captions + is_guided
    conditions = {
        name: _repeat(getattr(inputs, name), rows)
        for name in ("low_res", "inpaint_image", "inpaint_mask")
    }
    weights = _weights(inputs)

    def denoise(
        x_t: array_types.Image, timesteps: array_types.Timesteps
    ) -> process.ModelOutput:
        outputs = fns.denoise(
            params, _repeat(x_t, rows), _repeat(timesteps, rows), text, **conditions
        )
        outputs = einops.rearrange(outputs, "(k b) h w c -> k b h w c", k=rows)
        cond = outputs[0]
        if num_captions > 1:
            cond = guidance.blend(outputs[:num_captions], weights)
        if not is_guided:
            return cond
        is_active = guidance.is_active(
            timesteps, inputs.guidance_first, inputs.guidance_last
        )
        scale = jnp.where(is_active, inputs.guidance_scale, 1.0)
        guided = guidance.classifier_free(
            cond, outputs[-1], scale[:, None, None, None], prediction=prediction
        )
        if prediction == "x_and_eps":
            return guided
        return guidance.rescale(guided, cond, inputs.guidance_rescale)

    return denoise


def _make_folded(
    fns: build.DenoiserFns,
    params: array_types.Params,
    text: build.TextConditioning,
    inputs: StageInputs,
    *,
    is_guided: bool,
) -> sampling_loop.Denoise:
    """Returns the denoiser of a student that reads the guidance scale.

    An image has one row. The scale is 1 without guidance and outside its interval.
    """
    conditions = {
        name: getattr(inputs, name)
        for name in ("low_res", "inpaint_image", "inpaint_mask")
    }

    def denoise(
        x_t: array_types.Image, timesteps: array_types.Timesteps
    ) -> process.ModelOutput:
        is_active = guidance.is_active(
            timesteps, inputs.guidance_first, inputs.guidance_last
        )
        scale = jnp.where(is_active & is_guided, inputs.guidance_scale, 1.0)
        return fns.denoise(
            params, x_t, timesteps, text, guidance_scale=scale, **conditions
        )

    return denoise


def encode_for_clip(
    clip_fns: build.ClipFns, clip_params: array_types.Params, inputs: StageInputs
) -> jax.Array:
    """Returns the features of the captions in the CLIP, (k * b, d)."""
    assert inputs.clip_caption is not None
    return clip_fns.encode_text(clip_params, *_caption_major(inputs.clip_caption))


def last_clip_timestep(config: defaults.Config, sampler: str) -> int:
    """Returns the last timestep at which a CLIP guides the model.

    ddpm shifts the mean of a step by the step's variance times the gradient and needs
    no limit. Other samplers shift eps, which moves x_start by sqrt((1 - A) / A) times
    as much: 2e4 times at the noisy end. Few steps do not correct this, so these
    samplers are guided only where the factor is at most MAX_CLIP_FACTOR.
    """
    chain = config.diffusion
    if sampler == "ddpm":
        return chain.num_timesteps - 1
    cumprod = np.cumprod(1 - schedules.make_betas(chain.schedule, chain.num_timesteps))
    factor = np.sqrt((1 - cumprod) / cumprod)
    return int(np.flatnonzero(factor <= MAX_CLIP_FACTOR).max(initial=0))


def make_gradient(
    config: defaults.Config,
    clip_fns: build.ClipFns,
    clip_params: array_types.Params,
    text: jax.Array,
    inputs: StageInputs,
    *,
    sampler: str,
) -> sampling_loop.GradientFn:
    """Returns the gradient of exp(logit_scale) * cosine(x_t, caption), times its scale.

    `text` is from `encode_for_clip`. For several captions it is the gradient of the
    weighted mean of their similarities. `config` is that of the denoiser.
    """
    last = jnp.minimum(inputs.clip_guidance_last, last_clip_timestep(config, sampler))
    assert inputs.clip_caption is not None
    num_captions = inputs.clip_caption.tokens.shape[1]
    texts = einops.rearrange(text, "(k b) d -> k b d", k=num_captions)
    weights = _weights(inputs)
    logit_scale = clip_fns.logit_scale(clip_params)

    def gradient_fn(
        x_t: array_types.Image, timesteps: array_types.Timesteps
    ) -> array_types.Image:
        def similarity(images: array_types.Image) -> jax.Array:
            features = clip_fns.encode_image(clip_params, images, timesteps)
            each = [noised_clip.similarity(features, text) for text in texts]
            return logit_scale * jnp.sum(weights * jnp.stack(each), axis=0)

        is_active = guidance.is_active(timesteps, inputs.clip_guidance_first, last)
        scale = jnp.where(is_active, inputs.clip_guidance_scale, 0.0)
        return guidance.similarity_gradient(similarity, x_t, scale[:, None, None, None])

    return gradient_fn


def make_calls(
    config: defaults.Config,
    fns: build.DenoiserFns,
    clip_fns: build.ClipFns | None,
    params: array_types.Params,
    clip_params: array_types.Params | None,
    inputs: StageInputs,
    context: segments.Context,
    *,
    guidance_mode: str,
    sampler: str,
    sees_known: bool,
) -> tuple[sampling_loop.Denoise, sampling_loop.GradientFn | None]:
    """Returns the calls of the networks in a step: the denoiser's, the CLIP's or None.

    Without `sees_known` the denoiser does not read the known pixels.
    """
    seen = inputs
    if not sees_known:
        seen = inputs._replace(inpaint_image=None, inpaint_mask=None)
    denoise = make_denoise(
        config, fns, params, context.text, seen, is_guided="cfg" in guidance_mode
    )
    if "clip" not in guidance_mode:
        return denoise, None
    assert clip_fns is not None
    assert clip_params is not None
    assert context.clip_text is not None
    return denoise, make_gradient(
        config, clip_fns, clip_params, context.clip_text, inputs, sampler=sampler
    )


def _weights(inputs: StageInputs) -> jax.Array:
    """Returns the weights (k, b), which sum to 1 over the captions of an image."""
    batch, num_captions, _ = inputs.caption.tokens.shape
    if inputs.weights is None:
        return jnp.full((num_captions, batch), 1 / num_captions)
    weights = jnp.asarray(inputs.weights, jnp.float32).T
    return weights / jnp.sum(weights, axis=0)


def _caption_major(caption: Caption) -> Caption:
    """Returns (b, k, L) as (k * b, L)."""
    return Caption(*(einops.rearrange(part, "b k l -> (k b) l") for part in caption))


def _repeat(array: array_types.Array | None, times: int) -> array_types.Array | None:
    """Returns the batch `times` over, one copy after the other."""
    if array is None or times == 1:
        return array
    return jnp.concatenate([array] * times)
