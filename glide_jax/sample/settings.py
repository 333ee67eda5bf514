"""The knobs of a sampling run: defaults from the bundles, checked before any work."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any

import numpy as np

from glide_jax.config import defaults
from glide_jax.errors import UserError
from glide_jax.sample import stage

# The largest timestep a network is told: intervals lie on the training chain.
LAST_TIMESTEP = 999
UPSAMPLER_OPTIONS = ("upsampler_sampler", "upsampler_respacing", "upsampler_eta")


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """What a caller may set; None takes the default that the bundle carries.

    Attributes:
      seed: Together with an image's index, all of its randomness.
      first_index: Index of the first image; image i of a later run with
          first_index=i is the same picture.
      batch_size: The most images drawn at once, by either model.
      candidates: Pictures drawn of each prompt, of which the CLIP keeps the one it
          finds closest; needs a CLIP.
      guidance_mode: "none", "cfg", "clip" or "cfg+clip"; the base model only.
      guidance_scale: Classifier-free; 1 is off.
      guidance_interval: Timesteps (first, last), 0 to 999, between which
          classifier-free guidance acts; outside it the scale is 1.
      guidance_rescale: Share, 0 to 1, of the guided estimate's rescaling to the
          conditional one's spread (2305.08891); 0 is off.
      clip_guidance_scale: CLIP; 0 is off.
      clip_guidance_interval: As guidance_interval, for the CLIP's gradient.
      negative_prompt: What classifier-free guidance steers away from, in place of
          the empty caption.
      threshold_quantile: Dynamic thresholding (Imagen's) at this quantile of the
          base model's pixels, e.g. 0.995; None clips to the range instead.
      sampler: "ddpm", "ddim", "plms" or "dpm_solver_pp", of the base model.
      respacing: Timesteps of the base model, e.g. "150", "fast27", "lambda20".
      eta: Share of fresh noise in the base model's DDIM steps, 0 to 1.
      upsampler_sampler, upsampler_respacing, upsampler_eta: The upsampler's.
      match_low_res: Hold the enlarged picture to the small one's colours.
      inpaint_mode: "pinned", "masked" or "implicit"; see stage.StageSettings.
      feather_px: Known pixels of a picture that are so near to what is repainted,
          in pixels of that picture, are blended; all others stay as they are.
    """

    seed: int = 0
    first_index: int = 0
    batch_size: int = 16
    candidates: int = 1
    guidance_mode: str = "cfg"
    guidance_scale: float | int | None = None
    guidance_interval: tuple[float | int, float | int] = (0, LAST_TIMESTEP)
    guidance_rescale: float | int = 0.0
    clip_guidance_scale: float | int | None = None
    clip_guidance_interval: tuple[float | int, float | int] = (0, LAST_TIMESTEP)
    negative_prompt: str = ""
    threshold_quantile: float | None = None
    sampler: str | None = None
    respacing: str | None = None
    eta: float | int | None = None
    upsampler_sampler: str | None = None
    upsampler_respacing: str | None = None
    upsampler_eta: float | int | None = None
    match_low_res: bool | None = None
    inpaint_mode: str = "pinned"
    feather_px: int = 0

    def check(self) -> None:
        """Raises UserError for a value outside its range."""
        _check_choice("guidance_mode", self.guidance_mode, stage.GUIDANCE_MODES)
        _check_choice("inpaint_mode", self.inpaint_mode, stage.INPAINT_MODES)
        for name, least, most in (
            ("batch_size", 1, 2**32 - 1),
            ("candidates", 1, 2**16),
            # Keys are made of 32-bit words.
            ("seed", 0, 2**32 - 1),
            ("first_index", 0, 2**32 - 1),
            ("feather_px", 0, 1024),
        ):
            _check_number(name, getattr(self, name), least, most)
            if getattr(self, name) != int(getattr(self, name)):
                raise UserError(f"{name}={getattr(self, name)} is not a whole number")
        _check_number("guidance_rescale", self.guidance_rescale, 0, 1)
        if self.threshold_quantile is not None:
            _check_number("threshold_quantile", self.threshold_quantile, 0.5, 1)
        for name in ("negative_prompt", "respacing", "upsampler_respacing"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise UserError(f'{name}={value!r} is no text; e.g. "{value}"')
        if self.match_low_res not in (None, True, False):
            raise UserError(f"match_low_res={self.match_low_res!r}; give True or False")
        _check_interval("guidance_interval", self.guidance_interval)
        _check_interval("clip_guidance_interval", self.clip_guidance_interval)
        if self.clip_guidance_scale is not None and "clip" not in self.guidance_mode:
            raise UserError(
                f"clip_guidance_scale={self.clip_guidance_scale} means nothing to "
                f"guidance_mode={self.guidance_mode}; use clip or cfg+clip"
            )
        if self.guidance_scale not in (None, 1) and "cfg" not in self.guidance_mode:
            raise UserError(
                f"guidance_scale={self.guidance_scale} means nothing to "
                f"guidance_mode={self.guidance_mode}; use cfg or cfg+clip"
            )
        if self.negative_prompt and "cfg" not in self.guidance_mode:
            raise UserError(
                f"negative_prompt={self.negative_prompt!r} means nothing to "
                f"guidance_mode={self.guidance_mode}; use cfg or cfg+clip"
            )

    def base(self, default: defaults.SampleConfig) -> defaults.SampleConfig:
        """The base model's settings, checked."""
        return _resolve(
            default,
            sampler=self.sampler,
            respacing=self.respacing,
            eta=self.eta,
            guidance_scale=self.guidance_scale,
            clip_guidance_scale=self.clip_guidance_scale,
        )

    def upsampler(self, default: defaults.SampleConfig) -> defaults.SampleConfig:
        """The upsampler's settings, checked."""
        return _resolve(
            default,
            sampler=self.upsampler_sampler,
            respacing=self.upsampler_respacing,
            eta=self.upsampler_eta,
            match_low_res=self.match_low_res,
        )


def make_options(options: dict[str, Any]) -> SampleOptions:
    """The options by name.

    Raises:
      UserError: An unknown name or a value out of range.
    """
    known = {field.name for field in dataclasses.fields(SampleOptions)}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise UserError(
            f"{unknown[0]} is not a sampling option; known: {', '.join(sorted(known))}"
        )
    chosen = SampleOptions(**options)
    chosen.check()
    return chosen


def check_indices(options: SampleOptions, count: int) -> None:
    """Raises UserError unless `count` pictures have indices that keys can hold."""
    last = options.first_index + count * options.candidates - 1
    if last >= 2**32:
        raise UserError(
            f"first_index={options.first_index} leads to picture {last}; keys "
            "are made of 32 bits: give a smaller one"
        )


def check_strength(strength: object) -> None:
    """Raises UserError unless an edit's strength lies in [0, 1]."""
    _check_number("strength", strength, 0, 1)


def _resolve(default: defaults.SampleConfig, **given) -> defaults.SampleConfig:
    given = {name: value for name, value in given.items() if value is not None}
    resolved = dataclasses.replace(default, **given)
    for name in ("guidance_scale", "clip_guidance_scale", "noise_temperature"):
        _check_number(name, getattr(resolved, name), 0, math.inf)
    _check_number("eta", resolved.eta, 0, 1)
    if resolved.sampler == "ddim":
        return resolved
    if given.get("eta"):
        raise UserError(
            f"eta={resolved.eta} means nothing to sampler={resolved.sampler}; give "
            "sampler=ddim, or leave eta out"
        )
    # A bundle may carry one for the sampler that was not chosen.
    return dataclasses.replace(resolved, eta=0.0)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{name}={value!r} is not one of {', '.join(known)}")


def _check_number(
    name: str, value: object, least: float | int, most: float | int
) -> None:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise UserError(f"{name}={value!r} is not a number")
    # As the program sees it: 1e50 is infinite there.
    if not np.isfinite(np.float32(value)) or not least <= value <= most:
        rule = f"{least} to {most}"
        if most == math.inf:
            rule = f"a finite number of at least {least}"
        raise UserError(f"{name}={value} is out of range; give {rule}")


def _check_interval(name: str, interval: object) -> None:
    is_pair = isinstance(interval, tuple | list) and len(interval) == 2
    if not is_pair or not all(isinstance(t, numbers.Real) for t in interval):
        raise UserError(f"{name}={interval!r}; give two timesteps, (first, last)")
    if (
        any(t != t or t in (math.inf, -math.inf) or t != int(t) for t in interval)
        or not 0 <= interval[0] <= interval[1] <= LAST_TIMESTEP
    ):
        raise UserError(
            f"{name}={interval} is no interval of timesteps; give two numbers, the "
            f"smaller first, from 0 to {LAST_TIMESTEP}"
        )
