"""What the loaded models support: only this is shown on the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from glide_jax.diffusion import samplers
from glide_jax.errors import UserError
from glide_jax.sample import cascade, options, restore, student_checks


@dataclasses.dataclass(frozen=True)
class Features:
    """The choices of one cascade.

    Attributes:
      defaults: values of options that are left out.
      guidance_modes: of the base model.
      samplers, upsampler_samplers: the samplers of each model; empty if it has its own
        steps, or there is no upsampler.
      inpaint_modes: see `options.INPAINT_MODES`.
      has_negative_prompt: whether classifier-free guidance reads one.
      can_invert: whether pictures can be inverted by DDIM.
    """

    defaults: dict[str, Any]
    guidance_modes: tuple[str, ...]
    samplers: tuple[str, ...]
    upsampler_samplers: tuple[str, ...]
    inpaint_modes: tuple[str, ...]
    has_negative_prompt: bool
    can_invert: bool

    def applies(self, name: str, given: Mapping[str, Any]) -> bool:
        """Whether an option has an effect with the others, so that it is shown.

        Args:
          name: of the option.
          given: "guidance_mode", "sampler", "upsampler_sampler" and "inverts"; what is
            left out has its default.
        """
        given = {**self.defaults, **given}
        mode = given["guidance_mode"].split("+")
        if name == "guidance_mode":
            return len(self.guidance_modes) > 1
        if name == "negative_prompt":
            return self.has_negative_prompt and "cfg" in mode
        if name in ("guidance_scale", "clip_guidance_scale"):
            return options.about(name).needs in mode
        if name == "inpaint_mode":
            return len(self.inpaint_modes) > 1
        prefix = "upsampler_" if name.startswith("upsampler_") else ""
        own_steps = not (self.upsampler_samplers if prefix else self.samplers)
        inverts = given.get("inverts", False)
        if name.endswith("respacing"):
            return not own_steps
        if name.endswith("sampler"):
            return not (own_steps or inverts)
        if name.endswith("eta"):
            reads_eta = not (own_steps or inverts)
            return reads_eta and samplers.SAMPLERS[given[f"{prefix}sampler"]].uses_eta
        return True

    def chosen(
        self, values: Mapping[str, Any], *, inverts: bool = False, fills: bool = False
    ) -> dict[str, Any]:
        """Returns the options of the values on the page, without those at a default.

        A value that is not shown is not read; see `applies`.

        Args:
          values: by the name of the option; None or "": not given.
          inverts: whether a picture is inverted.
          fills: whether a part of a picture is repainted.

        Raises:
          UserError: a value out of range.
        """
        given = {**values, "inverts": inverts}
        found = {"guidance_mode": self.defaults["guidance_mode"]}
        if fills:
            found["inpaint_mode"] = self.defaults["inpaint_mode"]
        for name, value in values.items():
            is_given = value not in (None, "") and value != self.defaults.get(name)
            if is_given and self.applies(name, given):
                found[name] = value
        standard = options.SamplingOptions()
        found = {n: v for n, v in found.items() if v != getattr(standard, n)}
        options.make_options(found)
        return found

    def describe(self, chosen: Mapping[str, Any]) -> str:
        """Returns a short name of options from `chosen`, e.g. "cfg 3, ddpm 27"."""
        given = {**self.defaults, **chosen}
        mode = given["guidance_mode"]
        scales = [
            f"{given[name]:g}"
            for name in ("guidance_scale", "clip_guidance_scale")
            if self.applies(name, given)
        ]
        parts = [" ".join([mode, *scales])]
        for prefix, known in (("", self.samplers), ("upsampler_", ())):
            names = f"{prefix}sampler", f"{prefix}respacing"
            if known or any(name in chosen for name in names):
                parts.append(" ".join(str(given[name]) for name in names))
        said = ("guidance_mode", "guidance_scale", "clip_guidance_scale")
        parts += [
            f"{name} {value}"
            for name, value in chosen.items()
            if name not in said and not name.endswith(("sampler", "respacing"))
        ]
        return ", ".join(parts)


def find(glide: cascade.Glide) -> Features:
    """Returns the features of a cascade."""
    base, upsampler = glide.base, glide.upsampler
    modes = ["none"]
    if base.config.train.caption_drop_prob or base.unet.guidance_range:
        modes.append("cfg")
    if glide.clip is not None and base.config.train.student_steps != 1:
        modes += ["clip", *(["cfg+clip"] if "cfg" in modes else [])]
    inpaint_modes = ["masked", "implicit"]
    if all(one is None or one.unet.inpaint for one in (base, upsampler)):
        inpaint_modes.insert(0, "pinned")
    defaults: dict[str, Any] = {
        "guidance_mode": "cfg" if "cfg" in modes else "none",
        "inpaint_mode": inpaint_modes[0],
        "negative_prompt": "",
        **_settings("base", base),
    }
    if upsampler is not None:
        defaults |= _settings("upsampler", upsampler)
    both = [base, *([] if upsampler is None else [upsampler])]
    return Features(
        defaults=defaults,
        guidance_modes=tuple(n for n in options.GUIDANCE_MODES if n in modes),
        samplers=_samplers(base),
        upsampler_samplers=() if upsampler is None else _samplers(upsampler),
        inpaint_modes=tuple(inpaint_modes),
        has_negative_prompt="cfg" in modes and not base.unet.guidance_range,
        can_invert=not any(one.config.train.student_steps for one in both),
    )


def _settings(model: str, loaded: restore.SampleModel) -> dict[str, Any]:
    """Returns the options that the bundle of a model sets."""
    return {
        name: getattr(loaded.config.sample, options.about(name).setting)
        for name in options.names(model)
        if options.about(name).setting
    }


def _samplers(model: restore.SampleModel) -> tuple[str, ...]:
    """Returns the samplers that a model takes, none if its steps are its own."""
    if model.config.train.student_steps:
        return ()
    found = []
    for name in samplers.SAMPLERS:
        try:
            student_checks.check_steps(
                model.config, sampler=name, respacing="", inverts=False
            )
        except UserError:
            continue
        found.append(name)
    return tuple(found)
