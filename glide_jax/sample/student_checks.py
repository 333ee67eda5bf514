"""Options that a distilled student refuses, with one-line errors.

A student of few steps (train.student_steps) draws in its own steps; one that reads
the guidance scale (model.guidance_range) draws in one row, without an empty caption.
"""

from __future__ import annotations

from typing import Any

from glide_jax.config import defaults
from glide_jax.errors import UserError


def check_steps(
    config: defaults.Config, *, sampler: str, respacing: str, inverts: bool
) -> None:
    """Raises UserError for steps that the model of a bundle does not make.

    Args:
      config: settings of the run that trained the model.
      sampler: one of `samplers.SAMPLERS`.
      respacing: timesteps kept.
      inverts: whether a picture is inverted to noise.
    """
    steps = config.train.student_steps
    if config.train.loss_type == "truncated_snr" and sampler == "ddpm":
        raise UserError(
            f"sampler=ddpm needs a variance, which {config.name!r} does not predict "
            "(train.loss_type=truncated_snr); use ddim, or leave the option out"
        )
    if not steps:
        return
    for name, value, native in (
        ("respacing", respacing, f"grid{steps}"),
        ("sampler", sampler, "ddim"),
    ):
        if value != native:
            raise UserError(
                f"{name}={value} does not fit {config.name!r}, a student of {steps} "
                f"steps; leave the option out, which is {name}={native}"
            )
    if inverts:
        raise UserError(
            f"{config.name!r} is a student of {steps} steps, too few to invert a "
            "picture; edit without source_prompts, or with the teacher's bundle"
        )


def is_noiseless(config: defaults.Config) -> bool:
    """Whether a model is a student whose steps add no noise."""
    train = config.train
    return bool(train.student_steps) and train.student_loss == "halve"


def check_options(
    config: defaults.Config,
    sample: defaults.SampleConfig,
    *,
    guidance_mode: str,
    negative_prompt: str = "",
    guidance_rescale: float = 0.0,
    is_blended: bool = False,
) -> None:
    """Raises UserError for an option that has no effect on a student.

    Args:
      config: settings of the run that trained the model.
      sample: the resolved settings of the call.
      guidance_mode: one of `options.GUIDANCE_MODES`.
      negative_prompt: of the call; "" is none.
      guidance_rescale: of the call; 0 is off.
      is_blended: whether a picture has several captions.
    """
    if config.train.student_steps == 1 and "clip" in guidance_mode:
        _refuse(
            *(config, "guidance_mode", guidance_mode),
            "a CLIP guides every step but the first, and it has one",
        )
    if is_noiseless(config) and sample.eta:
        _refuse(config, "eta", sample.eta, "its steps add no noise")
    # Of another sampler, which has no eta, `check_steps` tells.
    is_noisy = config.train.student_loss == "match_moments"
    if is_noisy and sample.sampler == "ddim" and sample.eta != 1.0:
        raise UserError(
            f"eta={sample.eta:g} does not fit {config.name!r}, a student that learned "
            "with fresh noise in each step; leave the option out, which is eta=1"
        )
    model = config.model
    if config.diffusion.prediction == "x_and_eps" and guidance_rescale:
        _refuse(config, "guidance_rescale", guidance_rescale, "it has no guided row")
    if not isinstance(model, defaults.Text2ImConfig) or not model.guidance_range:
        return
    one_row = "guidance is folded into one row"
    if negative_prompt:
        _refuse(config, "negative_prompt", negative_prompt, one_row)
    if is_blended:
        raise UserError(
            f"several captions a picture are not for {config.name!r}, a distilled "
            f"student: {one_row}; give one, or use the teacher's bundle"
        )
    scale = sample.guidance_scale if "cfg" in guidance_mode else 1.0
    low, high = model.guidance_range
    if not low <= scale <= high:
        raise UserError(
            f"guidance_scale={scale:g} is outside the range that {config.name!r} was "
            f"trained on; give {low:g} to {high:g}"
        )


def _refuse(config: defaults.Config, name: str, value: Any, reason: str) -> None:
    raise UserError(
        f"{name}={value!r} has no effect on {config.name!r}, a distilled student: "
        f"{reason}; leave it out, or use the teacher's bundle"
    )
