"""The whole sampler of one model as a serialized StableHLO program, and its manual.

    sampler.stablehlo         as jax.export writes it, for PLATFORMS, any batch size
    manifest.json             what the program takes and gives, in order
    run.py                    runs it with jax, flatbuffers and numpy alone
    example.npz               inputs, so that run.py has something to draw
    clip_params.safetensors   the noised CLIP's weights, where it guides

The program holds the text encoder, the guidance and the loop over timesteps, and no
weights: (params, clip_params, inputs) -> uint8 pictures, each argument a dict by name.
Randomness comes in as two integers a picture: picture `index` of `seed` is the one that
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
    model_checks,
    options,
    program_readme,
    restore,
    stage,
    stage_inputs,
)
from glide_jax.text import tokenizers

PLATFORMS = ("cpu", "cuda", "tpu")
FOLDER = "program"

# Shapes and types of arrays by name; a side may be symbolic.
Tensors = dict[str, jax.ShapeDtypeStruct]
# (params, clip_params, inputs) -> uint8 (b, h, w, 3)
Program = Callable[[dict, dict, dict], jax.Array]


@dataclasses.dataclass(frozen=True)
class ProgramOptions:
    """What is fixed in a program; None takes the model's default.

    Attributes:
      guidance_mode: As in `stage.StageSettings`; default "cfg", upsamplers "none".
      sampler: Default: the bundle's.
      respacing: Default: the bundle's.
      dtype: In which the weights are stored, "bfloat16" or "float32".
      prompt: The example's caption.
    """

    guidance_mode: str | None = None
    sampler: str | None = None
    respacing: str | None = None
    dtype: str = "bfloat16"
    prompt: str = "an oil painting of a corgi"


def make_files(
    config: defaults.Config,
    tokenizer: tokenizers.Tokenizer,
    choices: ProgramOptions,
    where: pathlib.Path,
    clip: restore.SampleModel | None = None,
) -> dict[str, bytes]:
    """The files of a bundle's folder "program", named by their path in the bundle.

    Args:
      config: The run that trained the model.
      tokenizer: The model's.
      choices: What is fixed in the program.
      where: The place the model comes from; messages name it.
      clip: The noised CLIP, for the guidance modes that use one.

    Raises:
      UserError: A model that draws nothing, a guidance mode, sampler or respacing
          that is unknown or that the model does not know, or a CLIP that does not fit
          the model.
    """
    model = _abstract_model(config, tokenizer, where)
    model, mode = _resolve(model, choices, clip)
    if clip is not None:
        model_checks.check_models(model, None, clip)
    batch = export.symbolic_shape("b")[0]
    arguments = (
        _as_stored(model.params, choices.dtype),
        {} if clip is None else _as_stored(clip.params, choices.dtype),
        _input_shapes(model.config, mode, clip, batch),
    )
    sampler = jax.jit(_make_program(model, mode, clip))
    exported = export.export(sampler, platforms=PLATFORMS)(*arguments)
    files = program_readme.make_files(
        exported, arguments, model, clip, mode, choices.prompt
    )
    files[program_readme.PROGRAM] = bytes(exported.serialize())
    if clip is not None:
        weights = bundle.tensor_bytes(clip.params, choices.dtype)
        files[program_readme.CLIP_PARAMS] = weights
    return {f"{FOLDER}/{name}": content for name, content in files.items()}


def _abstract_model(
    config: defaults.Config, tokenizer: tokenizers.Tokenizer, where: pathlib.Path
) -> restore.SampleModel:
    """The model with the shapes of its parameters in their place."""
    if not isinstance(config.model, defaults.Text2ImConfig):
        raise UserError(
            f"{where} is a {config.model.family} model, which draws nothing; export a "
            "base model with --program, and give this one's bundle as --clip"
        )
    # No attention kernel of one platform: the program is for all of them.
    fns = build.make_denoiser(config.model)
    params = build.abstract_params(config.model)
    return restore.SampleModel(config, fns, params, tokenizer, where)


def _resolve(
    model: restore.SampleModel,
    choices: ProgramOptions,
    clip: restore.SampleModel | None,
) -> tuple[restore.SampleModel, str]:
    """The model with its sampling defaults replaced, and the guidance mode."""
    config = model.config
    is_upsampler = bool(config.model.low_res_px)
    mode = choices.guidance_mode or ("none" if is_upsampler else "cfg")
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
    given = {"sampler": choices.sampler, "respacing": choices.respacing}
    chosen = {name: value for name, value in given.items() if value is not None}
    sample = dataclasses.replace(config.sample, **chosen)
    config = dataclasses.replace(config, sample=sample)
    return dataclasses.replace(model, config=config), mode


def _make_program(
    model: restore.SampleModel, guidance_mode: str, clip: restore.SampleModel | None
) -> Program:
    config, size = model.config, model.config.model
    settings = stage.StageSettings.of(
        config.sample,
        guidance_mode,
        inpaint_mode="pinned" if size.inpaint else None,
    )
    draw = stage.make_program(
        config, model.fns, settings, None if clip is None else clip.fns
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
    """Tensors by name as the tree that `restore.load_bundle` gives."""
    return bundle.nest({n: leaf.astype(jnp.float32) for n, leaf in stored.items()})


def _stage_inputs(
    inputs: dict[str, jax.Array], stream: int
) -> stage_inputs.StageInputs:
    """The program's plain arrays as a stage takes them."""

    def caption(tokens: str, mask: str) -> stage_inputs.Caption | None:
        if tokens not in inputs:
            return None
        return stage_inputs.Caption(inputs[tokens], inputs[mask])

    def captions(tokens: str, mask: str) -> stage_inputs.Caption | None:
        """One for each picture, where a stage would take several."""
        found = caption(tokens, mask)
        return found and stage_inputs.Caption(*(part[:, None] for part in found))

    def picture(name: str) -> jax.Array | None:
        # As images.from_pixels does it.
        return inputs[name] / jnp.float32(127.5) - 1 if name in inputs else None

    mask = inputs.get("inpaint_mask")
    scalars = [name for name in stage_inputs.SCALARS if name in inputs]
    plain = stage_inputs.StageInputs(
        keys=random_streams.keys_of(inputs["seed"], inputs["index"], stream),
        caption=captions("tokens", "text_mask"),
        empty=caption("uncond_tokens", "uncond_mask"),
        clip_caption=captions("clip_tokens", "clip_mask"),
        low_res=picture("low_res"),
        inpaint_image=picture("inpaint_image"),
        inpaint_mask=None if mask is None else mask[..., None].astype(jnp.float32),
        **{name: inputs[name] for name in scalars},
    )
    return stage_inputs.with_array_scalars(plain)


def _input_shapes(
    config: defaults.Config, mode: str, clip: restore.SampleModel | None, batch: Any
) -> Tensors:
    """What the program reads, no more: other choices, other inputs."""
    size = config.model
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
    if "cfg" in mode:
        add_caption("uncond_tokens", "uncond_mask", size.text_context, 1)
    if clip is not None:
        add_caption("clip_tokens", "clip_mask", clip.config.model.text_context)
    for name in options.program_inputs(mode, config.sample.sampler):
        add(name, jnp.float32)
    if size.low_res_px:
        add("low_res", jnp.uint8, batch, size.low_res_px, size.low_res_px, 3)
    if size.inpaint:
        add("inpaint_image", jnp.uint8, batch, size.image_px, size.image_px, 3)
        add("inpaint_mask", jnp.uint8, batch, size.image_px, size.image_px)
    return found
