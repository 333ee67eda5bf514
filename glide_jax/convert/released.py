"""Settings of the released models, and options for the released code."""

from __future__ import annotations

import dataclasses
from typing import Any

from glide_jax import presets
from glide_jax.config import defaults
from glide_jax.config.defaults import (
    Config,
    ModelConfig,
    NoisedClipConfig,
    Text2ImConfig,
)
from glide_jax.convert import names
from glide_jax.errors import UserError

# Published: the paper samples in 150 steps and inpaints in 100; other values are those
# of the released notebooks. CLIP guidance scale 3 is that of ViT-B.
_SAMPLE = {
    "base": defaults.SampleConfig(respacing="150", clip_guidance_scale=3.0),
    "base-inpaint": defaults.SampleConfig(respacing="100", guidance_scale=5.0),
    "upsample": defaults.SampleConfig(
        sampler="ddim", respacing="fast27", noise_temperature=0.997
    ),
    "upsample-inpaint": defaults.SampleConfig(
        sampler="ddpm", respacing="fast27", noise_temperature=0.997
    ),
}


def make_config(kind: str) -> defaults.Config:
    """Returns the settings of the released model in a file of a kind.

    Settings of training are not published; they have their defaults, without data.

    Args:
      kind: one of names.KINDS.

    Raises:
      UserError: the kind is unknown.
    """
    if kind not in names.KINDS:
        raise UserError(f"kind {kind!r} is not one of {', '.join(names.KINDS)}")
    role, inpaint = names.KINDS[kind]
    is_clip, is_base = role == "noised_clip", role == "base"
    if is_clip:
        model = presets.noised_clip("released")
    else:
        make = presets.base if is_base else presets.upsampler
        model = make("released", inpaint=inpaint)
    return defaults.Config(
        name="openai_clip" if is_clip else f"openai_{kind.replace('-', '_')}",
        model=model,
        diffusion=defaults.DiffusionConfig(
            schedule="squaredcos_cap_v2" if is_base or is_clip else "linear"
        ),
        data=defaults.DataConfig(
            sources=(), weights=(), tokenizer="clip" if is_clip else "gpt2"
        ),
        # Published: a fifth of the captions were empty, for classifier-free guidance.
        train=defaults.TrainConfig(caption_drop_prob=0.2 if is_base else 0.0),
        sample=_SAMPLE.get(kind, defaults.SampleConfig()),
    )


# Constants of the released code.
NORM_GROUPS = 32
VOCAB_SIZE = 50257
# Prefix of respacings that the released code does not support.
_OWN_RESPACING = ("lambda", "grid")


def check(model: ModelConfig, where: str) -> None:
    """Raises UserError for a model that the released code would compute differently."""
    if isinstance(model, Text2ImConfig) and model.norm_groups != NORM_GROUPS:
        raise UserError(
            f"{where} has norm_groups={model.norm_groups}, but the released code "
            f"always uses {NORM_GROUPS} groups and would compute other results; train "
            "a model with norm_groups=32 and widths that are multiples of 32"
        )


def options(config: Config) -> dict[str, Any]:
    """Returns the keyword arguments of `create_model_and_diffusion` for a U-Net.

    They are those of glide-text2im's `model_and_diffusion_defaults`; a file of weights
    has neither sizes nor noise schedule.

    The released code derives levels and attention from image_size, which must be
    2 ** (levels + 2). So image_size has that value, whatever the model's own side; the
    network is convolutional and accepts images of any side.
    """
    model = config.model
    assert isinstance(model, Text2ImConfig), "a U-Net"
    levels = len(model.channel_mult)
    return {
        "image_size": _image_size(model),
        "num_channels": model.num_channels,
        "num_res_blocks": model.num_res_blocks,
        "channel_mult": ",".join(map(str, model.channel_mult)),
        "num_heads": 1,
        "num_head_channels": model.head_channels,
        "num_heads_upsample": -1,
        "attention_resolutions": _attention_resolutions(model, levels),
        "dropout": model.dropout_prob,
        "text_ctx": model.text_context,
        "xf_width": model.text_width,
        "xf_layers": model.text_layers,
        "xf_heads": model.text_heads,
        "xf_final_ln": True,
        "xf_padding": True,
        "diffusion_steps": config.diffusion.num_timesteps,
        "noise_schedule": config.diffusion.schedule,
        "timestep_respacing": _respacing(config),
        "use_scale_shift_norm": True,
        "resblock_updown": True,
        # Weights are loaded in float32; convert_to_fp16 is called afterwards.
        "use_fp16": False,
        "cache_text_emb": False,
        "inpaint": model.inpaint,
        "super_res": bool(model.low_res_px),
    }


def left_out(config: Config, tokenizer: str) -> list[str]:
    """Returns a line for each property that neither weights nor options can store.

    Args:
      config: of the bundle.
      tokenizer: the kind of its tokenizer, e.g. "gpt2".
    """
    if isinstance(config.model, NoisedClipConfig):
        return _left_out_of_clip(config, tokenizer)
    model, drawn = config.model, config.sample
    lines = []
    if model.image_px != _image_size(model):
        lines.append(
            f"images are {model.image_px} px; image_size={_image_size(model)} in the "
            f"options only selects {len(model.channel_mult)} levels, so do not sample "
            "at that size"
        )
    if model.low_res_px:
        lines.append(f"low_res images are {model.low_res_px} px")
    if model.vocab_size != VOCAB_SIZE:
        lines.append(
            f"the token table has {model.vocab_size} rows, that of the released code "
            f"{VOCAB_SIZE}; set model.token_embedding = "
            f"torch.nn.Embedding({model.vocab_size}, {model.text_width}) before "
            "load_state_dict"
        )
    if tokenizer != "gpt2":
        lines.append(
            f"the tokenizer is {tokenizer}, model.tokenizer of the released code is "
            "gpt2; encode captions with the bundle's tokenizer"
        )
    if _respacing(config) != drawn.respacing:
        lines.append(
            f"the released code does not support respacing {drawn.respacing}; "
            "timestep_respacing in the options selects every timestep"
        )
    lines.append(
        f"the sampler is {drawn.sampler} with guidance_scale={drawn.guidance_scale:g}, "
        f"eta={drawn.eta:g} and noise_temperature={drawn.noise_temperature:g}; pass "
        "these to the sampling loop"
    )
    return lines


def _left_out_of_clip(config: Config, tokenizer: str) -> list[str]:
    ours, theirs = (
        {**dataclasses.asdict(each.model), **dataclasses.asdict(each.diffusion)}
        for each in (config, make_config("clip-text"))
    )
    ours["tokenizer"], theirs["tokenizer"] = tokenizer, "clip"
    # The computation's dtype does not change the model.
    del ours["compute_dtype"], theirs["compute_dtype"]
    differ = [f"{key} {ours[key]}" for key in theirs if ours[key] != theirs[key]]
    if not differ:
        return []
    return [
        f"{', '.join(differ)}; create_clip_model reads these settings from a "
        "config.yaml, and the published one has other values"
    ]


def _image_size(model: Text2ImConfig) -> int:
    return 2 ** (len(model.channel_mult) + 2)


def _attention_resolutions(model: Text2ImConfig, levels: int) -> str:
    size = _image_size(model)
    resolutions = [
        str(size >> level)
        for level in range(levels)
        if model.image_px >> level in model.attention_px
    ]
    # The released code cannot parse an empty list; this value matches no level.
    return ",".join(resolutions) or str(2 * size)


def _respacing(config: Config) -> str:
    respacing = config.sample.respacing
    return "" if respacing.startswith(_OWN_RESPACING) else respacing
