"""The knobs of a sampling run: defaults from the bundles, checked before any work."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from glide_jax import errors
from glide_jax.config import defaults
from glide_jax.sample import stage


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """What a caller may set; None takes the default that the bundle carries.

    Attributes:
        seed: Together with an image's index, all of its randomness.
        first_index: Index of the first image; image i of a later run with
            first_index=i is the same picture.
        guidance_mode: "none", "cfg", "clip" or "cfg+clip"; the base model only.
        guidance_scale: Classifier-free; 1 is off.
        clip_guidance_scale: CLIP; 0 is off.
        sampler: "ddpm" or "ddim", of the base model.
        respacing: Timesteps of the base model, e.g. "150", "fast27".
        eta: Share of fresh noise in the base model's DDIM steps, 0 to 1.
        upsampler_sampler: "ddpm" or "ddim", of the upsampler.
        upsampler_respacing: Timesteps of the upsampler.
        match_low_res: Hold the enlarged picture to the small one's colours.
        batch_size: Images drawn at once, by either model.
    """

    seed: int = 0
    first_index: int = 0
    guidance_mode: str = "cfg"
    guidance_scale: float | int | None = None
    clip_guidance_scale: float | int | None = None
    sampler: str | None = None
    respacing: str | None = None
    eta: float | int | None = None
    upsampler_sampler: str | None = None
    upsampler_respacing: str | None = None
    match_low_res: bool | None = None
    batch_size: int = 16

    def check(self) -> None:
        """Raises UserError for a value outside its range."""
        if self.guidance_mode not in stage.GUIDANCE_MODES:
            raise errors.UserError(
                f"guidance_mode={self.guidance_mode!r} is not one of "
                f"{', '.join(stage.GUIDANCE_MODES)}"
            )
        for name, least in (("batch_size", 1), ("seed", 0), ("first_index", 0)):
            value = getattr(self, name)
            # Keys are made of 32-bit words.
            if not least <= value < 2**32:
                raise errors.UserError(
                    f"{name}={value} is out of range; give a whole number from "
                    f"{least} to 2**32 - 1"
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
        raise errors.UserError(
            f"{unknown[0]} is not a sampling option; known: {', '.join(sorted(known))}"
        )
    chosen = SampleOptions(**options)
    chosen.check()
    return chosen


def _resolve(default: defaults.SampleConfig, **given) -> defaults.SampleConfig:
    given = {name: value for name, value in given.items() if value is not None}
    resolved = dataclasses.replace(default, **given)
    for name in ("guidance_scale", "clip_guidance_scale", "noise_temperature"):
        _check_number(name, getattr(resolved, name), math.inf)
    _check_number("eta", resolved.eta, 1.0)
    if resolved.sampler == "ddim":
        return resolved
    if given.get("eta"):
        raise errors.UserError(
            f"eta={resolved.eta} means nothing to sampler={resolved.sampler}; give "
            "sampler=ddim, or leave eta out"
        )
    # A bundle may carry one for the sampler that was not chosen.
    return dataclasses.replace(resolved, eta=0.0)


def _check_number(name: str, value: float | int, most: float) -> None:
    if not math.isfinite(value) or not 0 <= value <= most:
        rule = "a finite number of at least 0" if most == math.inf else "0 to 1"
        raise errors.UserError(f"{name}={value} is out of range; give {rule}")
