"""The complete sampler of one model as a serialized StableHLO program.

    sampler.stablehlo         written by jax.export for PLATFORMS, for any batch size
    manifest.json             the program's arguments and results, in order
    run.py                    runs it with jax, flatbuffers and numpy alone
    example.npz               example inputs for run.py
    clip_params.safetensors   the noised CLIP's weights, if it guides

The program has the text encoder, the guidance and the loop over timesteps, and no
weights: (params, clip_params, inputs) -> uint8 pictures, each argument a dict by name.
Two integers per picture are its randomness: picture `index` of `seed` is the one that
`cascade.Glide` draws.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from glide_jax import array_types
from glide_jax.checkpoint import bundle
from glide_jax.config import defaults
from glide_jax.errors import UserError
from glide_jax.models import build
from glide_jax.runtime import random_streams
from glide_jax.sample import (
    models,
    option_checks,
    options,
    program_readme,
    restore,
    stage,
    stage_inputs,
    student_checks,
)
from glide_jax.text import tokenizers

PLATFORMS = ("cpu", "cuda", "tpu")
FOLDER = "program"

# Shapes and types of arrays by name; a side may be symbolic.
Tensors = dict[str, jax.ShapeDtypeStruct]
# (params, clip_params, inputs) -> uint8 (b, h, w, 3)
Program = Callable[[dict, dict, dict], jax.Array]


def make_files(
    config: defaults.Config,
    tokenizer: tokenizers.Tokenizer,
    where: pathlib.Path,
    clip: restore.SampleModel | None = None,
    *,
    dtype: str = "bfloat16",
    prompt: str = "an oil painting of a corgi",
    **choices: str,
) -> dict[str, bytes]:
    """Returns the files of a bundle's folder "program", by their path in the bundle.

    Args:
      config: settings of the run that trained the model.
      tokenizer: the model's.
      where: the place that the model comes from, named in errors.
      clip: the noised CLIP, for the guidance modes that use one.
      dtype: dtype of the stored weights, "bfloat16" or "float32".
      prompt: caption of the example.
      **choices: `options.program_choices`, fixed in the program. Without
        guidance_mode it is "cfg", for upsamplers "none"; others are the bundle's.

    Raises:
      UserError: a model that draws nothing, a choice that is unknown or that the model
        does not support, or a CLIP that does not fit the model.
    """
    model = _abstract_model(config, tokenizer, where)
    model, mode = _resolve(model, choices, clip)
    if clip is not None:
        models.check_models(model, None, clip)
    batch = export.symbolic_shape("b")[0]
    arguments = (
        _as_stored(model.params, dtype),
        {} if clip is None else _as_stored(clip.params, dtype),
        _input_shapes(model, mode, clip, batch),
    )
    sampler = jax.jit(_make_program(model, mode, clip))
    exported = export.export(sampler, platforms=PLATFORMS)(*arguments)
    files = program_readme.make_files(exported, arguments, model, clip, mode, prompt)
    files[program_readme.PROGRAM] = bytes(exported.serialize())
    if clip is not None:
        weights = bundle.tensor_bytes(clip.params, dtype)
        files[program_readme.CLIP_PARAMS] = weights
    return {f"{FOLDER}/{name}": content for name, content in files.items()}


def _abstract_model(
    config: defaults.Config, tokenizer: tokenizers.Tokenizer, where: pathlib.Path
) -> restore.SampleModel:
    """Returns the model with the shapes of its parameters instead of arrays."""
    if not isinstance(config.model, defaults.Text2ImConfig):
        raise UserError(
            f"{where} is a {config.model.family} model, which draws nothing; export a "
            "base model with --program, and give this one's bundle as --clip"
        )
    # No attention kernel of one platform: the program is for all of them.
    fns = build.make_denoiser(config.model, prediction=config.diffusion.prediction)
    params = build.abstract_params(config.model)
    return restore.SampleModel(config, fns, params, tokenizer, where)


def _resolve(
    model: restore.SampleModel,
    choices: dict[str, str],
    clip: restore.SampleModel | None,
) -> tuple[restore.SampleModel, str]:
    """Returns the model with its sampling settings replaced, and the guidance mode."""
    for name in choices:
        option_checks.check_choice("choice", name, tuple(options.program_choices()))
    is_upsampler = bool(model.unet.low_res_px)
    choices = {"guidance_mode": "none" if is_upsampler else "cfg", **choices}
    mode = choices["guidance_mode"]
    if is_upsampler and mode != "none":
        raise UserError(
            f"guidance_mode={mode} is for base models and {model.folder} is an "
            "upsampler; leave it out"
        )
    if clip is not None and "clip" not in mode:
        raise UserError(
            f"guidance_mode={mode} reads no CLIP; leave --clip out, or give "
            "guidance_mode=clip or cfg+clip"
        )
    chosen = options.make_options(choices)
    sample = chosen.resolve("base", model.config.sample)
    config = dataclasses.replace(model.config, sample=sample)
    return dataclasses.replace(model, config=config), mode


def _make_program(
    model: restore.SampleModel, guidance_mode: str, clip: restore.SampleModel | None
) -> Program:
    config, size = model.config, model.unet
    settings = stage.StageSettings.of(
        config.sample,
        guidance_mode,
        inpaint_mode="pinned" if size.inpaint else None,
    )
    draw = stage.make_program(
        config, model.denoiser, settings, None if clip is None else clip.clip
    )
    stream = (
        random_streams.UPSAMPLER_STAGE if size.low_res_px else random_streams.BASE_STAGE
    )

    def sampler(params: dict, clip_params: dict, inputs: dict) -> jax.Array:
        drawn = draw(
            _as_loaded(params),
            _as_loaded(clip_params) if clip_params else None,
            _stage_inputs(inputs, stream),
        )
        return jnp.clip(jnp.round((drawn + 1) * 127.5), 0, 255).astype(jnp.uint8)

    return sampler


def _as_stored(params: array_types.Params, dtype: str) -> Tensors:
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, dtype)
        for name, leaf in bundle.flatten(params).items()
    }


def _as_loaded(stored: dict[str, jax.Array]) -> array_types.Params:
    """Returns tensors by name as the parameters of `restore.load_bundle`."""
    return bundle.nest({n: leaf.astype(jnp.float32) for n, leaf in stored.items()})


def _stage_inputs(
    inputs: dict[str, jax.Array], stream: int
) -> stage_inputs.StageInputs:
    """Returns the arrays of the program as inputs of a stage."""

    def caption(tokens: str, mask: str) -> stage_inputs.Caption:
        """One caption per picture, with the axis of several."""
        return stage_inputs.Caption(inputs[tokens][:, None], inputs[mask][:, None])

    def picture(name: str) -> jax.Array | None:
        # As image_io.from_pixels computes it.
        return inputs[name] / jnp.float32(127.5) - 1 if name in inputs else None

    mask, empty, clip_caption = inputs.get("inpaint_mask"), None, None
    if "uncond_tokens" in inputs:
        empty = stage_inputs.Caption(inputs["uncond_tokens"], inputs["uncond_mask"])
    if "clip_tokens" in inputs:
        clip_caption = caption("clip_tokens", "clip_mask")
    scalars: dict[str, Any] = {
        name: inputs[name] for name in stage_inputs.SCALARS if name in inputs
    }
    plain = stage_inputs.StageInputs(
        keys=random_streams.keys_of(inputs["seed"], inputs["index"], stream),
        caption=caption("tokens", "text_mask"),
        empty=empty,
        clip_caption=clip_caption,
        low_res=picture("low_res"),
        inpaint_image=picture("inpaint_image"),
        inpaint_mask=None if mask is None else mask[..., None].astype(jnp.float32),
        **scalars,
    )
    return stage_inputs.with_array_scalars(plain)


def _input_shapes(
    model: restore.SampleModel, mode: str, clip: restore.SampleModel | None, batch: Any
) -> Tensors:
    """Returns the inputs that a program of these choices reads."""
    size = model.unet
    found: Tensors = {}

    def add(name: str, dtype: Any, *sides: Any) -> None:
        found[name] = jax.ShapeDtypeStruct(sides, dtype)

    def add_caption(tokens: str, mask: str, context: int, rows: Any = batch) -> None:
        add(tokens, jnp.int32, rows, context)
        add(mask, jnp.bool_, rows, context)

    add("seed", jnp.uint32, batch)
    add("index", jnp.uint32, batch)
    add_caption("tokens", "text_mask", size.text_context)
    add("noise_temperature", jnp.float32)
    if "cfg" in mode and not size.guidance_range:
        add_caption("uncond_tokens", "uncond_mask", size.text_context, 1)
    if clip is not None:
        add_caption("clip_tokens", "clip_mask", clip.config.model.text_context)
    for name in options.program_inputs(mode, model.config.sample.sampler):
        # The steps of a student of halved steps add no noise.
        if name != "eta" or not student_checks.is_noiseless(model.config):
            add(name, jnp.float32)
    if size.low_res_px:
        add("low_res", jnp.uint8, batch, size.low_res_px, size.low_res_px, 3)
    if size.inpaint:
        add("inpaint_image", jnp.uint8, batch, size.image_px, size.image_px, 3)
        add("inpaint_mask", jnp.uint8, batch, size.image_px, size.image_px)
    return found
