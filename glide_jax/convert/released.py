"""What does a released file hold: which model, under which noise, drawn how?"""

from __future__ import annotations

from glide_jax import presets
from glide_jax.config import defaults
from glide_jax.convert import names
from glide_jax.errors import UserError

# Published: the paper draws base pictures in 150 steps and fills holes in 100; the rest
# is what the released notebooks do. Guidance scale 3 of the CLIP is that of ViT-B.
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


def config(kind: str) -> defaults.Config:
    """The settings of the released model in a file of this kind, one of names.KINDS.

    Those of its training are not published and stand at their defaults, with no data.

    Raises:
      UserError: another kind.
    """
    if kind not in names.KINDS:
        raise UserError(f"kind {kind!r} is not one of {', '.join(names.KINDS)}")
    is_clip, is_base = kind.startswith("clip-"), kind.startswith("base")
    if is_clip:
        model = presets.noised_clip("released")
    else:
        make = presets.base if is_base else presets.upsampler
        model = make("released", inpaint=kind.endswith("-inpaint"))
    return defaults.Config(
        name="openai_clip" if is_clip else f"openai_{kind.replace('-', '_')}",
        model=model,
        diffusion=defaults.DiffusionConfig(
            schedule="squaredcos_cap_v2" if is_base or is_clip else "linear"
        ),
        data=defaults.DataConfig(
            sources=(), weights=(), tokenizer="clip" if is_clip else "gpt2"
        ),
        # Published: a fifth of the captions were empty, which classifier-free guidance
        # rests on.
        train=defaults.TrainConfig(caption_drop_prob=0.2 if is_base else 0.0),
        sample=_SAMPLE.get(kind, defaults.SampleConfig()),
    )
