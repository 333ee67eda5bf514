"""The options of a sampling call, declared once; imports no JAX.

The metadata of each field of `SamplingOptions` gives its help, range and use. The
checks, the flags of the verbs, the traced arguments of a stage, the settings and inputs
of an exported program and the table in docs/sampling.md are derived from it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypedDict

from glide_jax.config import defaults
from glide_jax.diffusion import samplers
from glide_jax.errors import UserError
from glide_jax.sample import option_checks

GUIDANCE_MODES = ("none", "cfg", "clip", "cfg+clip")
INPAINT_MODES = ("pinned", "masked", "implicit")
MAX_KEY = 2**32 - 1  # keys consist of 32-bit words

Kind = Literal["choice", "interval", "number", "switch", "text", "whole"]


@dataclasses.dataclass(frozen=True)
class About:
    """The metadata of an option.

    Attributes:
      help: one phrase for help texts and documentation.
      kind: selects the check and the kind of flag.
      group: flags of one group are defined together.
      least, most: the inclusive range of a number.
      choices: the values of a choice.
      setting: the field of the bundle's SampleConfig that None stands for.
      inputs: the arguments of a stage that the option sets; without any, the option
        is static or is used on the host.
      is_static: whether another value compiles another program.
      needs: "cfg" or "clip": the guidance mode without which it has no effect.
      model: the model that it concerns.
    """

    help: str
    kind: Kind
    group: Literal["guidance", "inpaint", "output", "pictures", "steps", "upsampler"]
    least: float | int = 0
    most: float | int = math.inf
    choices: tuple[str, ...] = ()
    setting: str = ""
    inputs: tuple[str, ...] = ()
    is_static: bool = False
    needs: str = ""
    model: Literal["base", "upsampler", "both"] = "base"


def _option(default: Any, help: str, kind: Kind, group: Any, **about) -> Any:
    metadata = {"about": About(help, kind, group, **about)}
    return dataclasses.field(default=default, metadata=metadata)


def _steps(model: Any, group: str) -> Iterator[Any]:
    """Yields the fields sampler, respacing and eta of one model."""
    label = "base model" if model == "base" else model
    yield _option(
        None,
        f"sampler of the {label}; the bundle's if left out",
        *("choice", group),
        choices=tuple(samplers.SAMPLERS),
        setting="sampler",
        is_static=True,
        model=model,
    )
    yield _option(
        None,
        f"timesteps of the {label}, e.g. 150, fast27, lambda20; the bundle's if left "
        "out",
        *("text", group),
        setting="respacing",
        is_static=True,
        model=model,
    )
    with_eta = ", ".join(n for n, found in samplers.SAMPLERS.items() if found.uses_eta)
    yield _option(
        None,
        f"share of fresh noise in the {label}'s {with_eta} steps, e.g. 0.5",
        *("number", group),
        most=1,
        setting="eta",
        inputs=("eta",),
        model=model,
    )


_BASE_STEPS = tuple(_steps("base", "steps"))
_UPSAMPLER_STEPS = tuple(_steps("upsampler", "upsampler"))


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """The options of a sampling call; None takes the default that the bundle carries.

    `about(name)` documents each one. An interval is (first, last) in timesteps, 0 to
    999. Image i of a later call with first_index=i is the same picture.
    """

    seed: int = _option(
        *(0, "with an image's index, all of its randomness", "whole", "output"),
        most=MAX_KEY,
        model="both",
    )
    first_index: int = _option(
        0,
        "index of the first picture: 17 draws picture 17 of that seed alone",
        *("whole", "output"),
        most=MAX_KEY,
        model="both",
    )
    batch_size: int = _option(
        16,
        "pictures drawn at once, then written; lower it if memory runs out",
        *("whole", "output"),
        least=1,
        most=MAX_KEY,
        model="both",
    )
    candidates: int = _option(
        1,
        "pictures drawn for each result, of which the CLIP selects the closest one",
        *("whole", "pictures"),
        least=1,
        most=2**16,
    )
    guidance_mode: str = _option(
        "cfg",
        "guidance of the base model: none, classifier-free, CLIP or both",
        *("choice", "guidance"),
        choices=GUIDANCE_MODES,
        is_static=True,
    )
    guidance_scale: float | int | None = _option(
        None,
        "classifier-free, uncond + s (cond - uncond); 1 is off; the bundle's if left "
        "out",
        *("number", "guidance"),
        setting="guidance_scale",
        inputs=("guidance_scale",),
        needs="cfg",
    )
    guidance_interval: tuple[float | int, float | int] = _option(
        (0, option_checks.LAST_TIMESTEP),
        "timesteps between which classifier-free guidance acts, e.g. 200,800",
        *("interval", "guidance"),
        inputs=("guidance_first", "guidance_last"),
    )
    guidance_rescale: float | int = _option(
        0.0,
        "share of the guided estimate's rescaling to the standard deviation of the "
        "conditional one (2305.08891), 0 (off) to 1, e.g. 0.7",
        *("number", "guidance"),
        most=1,
        inputs=("guidance_rescale",),
    )
    clip_guidance_scale: float | int | None = _option(
        None,
        "factor on the gradient of the CLIP's similarity; 0 is off; the bundle's if "
        "left out",
        *("number", "guidance"),
        setting="clip_guidance_scale",
        inputs=("clip_guidance_scale",),
        needs="clip",
    )
    clip_guidance_interval: tuple[float | int, float | int] = _option(
        (0, option_checks.LAST_TIMESTEP),
        "timesteps between which CLIP guidance acts; samplers other than ddpm leave "
        "out the noisiest ones in any case",
        *("interval", "guidance"),
        inputs=("clip_guidance_first", "clip_guidance_last"),
    )
    negative_prompt: str = _option(
        "",
        "prompt that classifier-free guidance steers away from, in place of the empty "
        "caption",
        *("text", "guidance"),
        needs="cfg",
    )
    threshold_quantile: float | None = _option(
        None,
        "dynamic thresholding of the base model's pixels at this quantile, e.g. 0.995; "
        "clipping if left out",
        *("number", "guidance"),
        least=0.5,
        most=1,
        inputs=("threshold_quantile",),
    )
    sampler: str | None = _BASE_STEPS[0]
    respacing: str | None = _BASE_STEPS[1]
    eta: float | int | None = _BASE_STEPS[2]
    upsampler_sampler: str | None = _UPSAMPLER_STEPS[0]
    upsampler_respacing: str | None = _UPSAMPLER_STEPS[1]
    upsampler_eta: float | int | None = _UPSAMPLER_STEPS[2]
    match_low_res: bool | None = _option(
        None,
        "match the area means of the enlarged picture to the small one (DDNM's "
        "projection); the bundle's if left out",
        *("switch", "upsampler"),
        setting="match_low_res",
        is_static=True,
        model="upsampler",
    )
    inpaint_mode: str = _option(
        "pinned",
        "pinned: the model sees the known pixels and they are fixed at each step "
        "(GLIDE's way); masked: it does not see them; implicit: it does not, and they "
        "are noised again at each step",
        *("choice", "inpaint"),
        choices=INPAINT_MODES,
        is_static=True,
        model="both",
    )
    feather_px: int = _option(
        0,
        "blend the known pixels within this distance of the repainted ones, in pixels "
        "of the picture",
        *("whole", "inpaint"),
        most=1024,
        model="both",
    )

    def check(self) -> None:
        """Raises UserError for a value outside its range, or without effect."""
        for field in dataclasses.fields(self):
            _check(field.name, getattr(self, field.name), field.default)
        for name in names():
            needs, value = about(name).needs, getattr(self, name)
            is_off = value in (None, "") or (name, value) == ("guidance_scale", 1)
            if needs and not is_off and needs not in self.guidance_mode.split("+"):
                raise UserError(
                    f"{name}={value!r} has no effect with guidance_mode="
                    f"{self.guidance_mode}; use {needs} or cfg+clip"
                )

    def resolve(
        self, model: str, default: defaults.SampleConfig
    ) -> defaults.SampleConfig:
        """Returns the settings of "base" or "upsampler", checked.

        Args:
          model: one of the two.
          default: the settings of its bundle.
        """
        given = {
            about(name).setting: getattr(self, name)
            for name in names(model)
            if about(name).setting
        }
        return option_checks.resolve(default, **given)

    def traced(self, model: str, resolved: defaults.SampleConfig) -> dict[str, Any]:
        """Returns the scalars of StageInputs for one model, from its `resolve`."""
        found = {"noise_temperature": resolved.noise_temperature}
        for name in names(model):
            known, value = about(name), getattr(self, name)
            if known.setting:
                value = getattr(resolved, known.setting)
            if len(known.inputs) == 1 and value is not None:
                found[known.inputs[0]] = value
            elif known.inputs and value is not None:
                found |= zip(known.inputs, value, strict=True)
        return found


class SamplingKeywords(TypedDict, total=False):
    """The fields of `SamplingOptions` as keyword arguments of `cascade.Glide`."""

    seed: int
    first_index: int
    batch_size: int
    candidates: int
    guidance_mode: str
    guidance_scale: float | int | None
    guidance_interval: tuple[float | int, float | int]
    guidance_rescale: float | int
    clip_guidance_scale: float | int | None
    clip_guidance_interval: tuple[float | int, float | int]
    negative_prompt: str
    threshold_quantile: float | None
    sampler: str | None
    respacing: str | None
    eta: float | int | None
    upsampler_sampler: str | None
    upsampler_respacing: str | None
    upsampler_eta: float | int | None
    match_low_res: bool | None
    inpaint_mode: str
    feather_px: int


_FIELDS = {field.name: field for field in dataclasses.fields(SamplingOptions)}


def about(name: str) -> About:
    """Returns the metadata of an option."""
    return _FIELDS[name].metadata["about"]


def names(model: str = "", *, group: str = "") -> list[str]:
    """Returns the options in their order, of one model or of one group of flags."""
    return [
        name
        for name in _FIELDS
        if model in ("", about(name).model) and group in ("", about(name).group)
    ]


def program_choices() -> list[str]:
    """Returns the options that are fixed in an exported program of one model."""
    return [name for name in names("base") if about(name).is_static]


def program_inputs(guidance_mode: str, sampler: str) -> list[str]:
    """Returns the options that are inputs of an exported program of one model."""
    found = []
    for name in names("base"):
        known = about(name)
        acts = known.needs in guidance_mode.split("+")
        if name == "eta":
            acts = samplers.find_sampler(sampler).uses_eta
        if acts and known.setting and known.inputs:
            found.append(name)
    return found


def to_markdown() -> str:
    """Returns the tables of options and samplers in docs/sampling.md."""
    rows = ["| option | default | meaning | program |", "|---|---|---|---|"]
    for name, field in _FIELDS.items():
        known = about(name)
        meaning = known.help
        if known.setting == "sampler":
            meaning += "; see the next table"
        elif known.choices:
            meaning += f" ({', '.join(f'`{choice}`' for choice in known.choices)})"
        compiled = "static" if known.is_static else "traced" if known.inputs else "host"
        rows.append(f"| `{name}` | `{field.default!r}` | {meaning} | {compiled} |")
    return "\n".join([*rows, "", samplers.to_markdown()])


def make_options(options: Mapping[str, Any]) -> SamplingOptions:
    """Returns the options, checked.

    Raises:
      UserError: An unknown name or a value out of range.
    """
    unknown = sorted(options.keys() - _FIELDS.keys())
    if unknown:
        raise UserError(
            f"{unknown[0]} is not a sampling option; known: "
            f"{', '.join(sorted(_FIELDS))}"
        )
    chosen = SamplingOptions(**options)
    chosen.check()
    return chosen


def check_indices(options: SamplingOptions, count: int) -> None:
    """Raises UserError unless `count` pictures have indices that fit into keys."""
    last = options.first_index + count * options.candidates - 1
    if last > MAX_KEY:
        raise UserError(
            f"first_index={options.first_index} leads to picture {last}; keys have 32 "
            "bits: give a smaller one"
        )


def check_strength(strength: object) -> None:
    """Raises UserError unless an edit's strength is in [0, 1]."""
    option_checks.check_number("strength", strength, 0, 1)


def _check(name: str, value: Any, default: Any) -> None:
    """Raises UserError unless the value is of the option's kind and in its range."""
    known = about(name)
    if value is None and default is None:
        return
    if known.kind == "choice":
        option_checks.check_choice(name, value, known.choices)
    elif known.kind == "interval":
        option_checks.check_interval(name, value)
    elif known.kind == "text" and not isinstance(value, str):
        raise UserError(f'{name}={value!r} is not a text; give e.g. "{value}"')
    elif known.kind == "switch" and value not in (True, False):
        raise UserError(f"{name}={value!r} is not a switch; give True or False")
    elif known.kind == "number":
        option_checks.check_number(name, value, known.least, known.most)
    elif known.kind == "whole":
        option_checks.check_whole(name, value, known.least, known.most)
