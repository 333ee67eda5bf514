"""The inputs of a tab for the options of sampling; only those that have an effect."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from glide_jax.demo.features import Features
from glide_jax.errors import UserError
from glide_jax.sample import cascade, options

GUIDANCE = (
    "guidance_mode",
    "guidance_scale",
    "clip_guidance_scale",
    "negative_prompt",
)
STEPS = ("sampler", "respacing", "eta")
UPSAMPLER = ("upsampler_sampler", "upsampler_respacing", "upsampler_eta")
INPAINT = ("inpaint_mode", "feather_px")
# Options whose values decide which others have an effect.
_DECIDING = ("guidance_mode", "sampler", "upsampler_sampler")
_MODES = {
    "none": "none",
    "cfg": "classifier-free",
    "clip": "CLIP",
    "cfg+clip": "both",
}
_LABELS = {
    "guidance_mode": "guidance",
    "guidance_scale": "scale of classifier-free guidance",
    "clip_guidance_scale": "scale of CLIP guidance",
    "negative_prompt": "negative prompt",
    "inpaint_mode": "way of repainting",
    "feather_px": "soft edge, in pixels",
}


class Controls:
    """Inputs for some options.

    Attributes:
      components: by the name of the option, those that can have an effect.
    """

    def __init__(
        self,
        tab: str,
        found: Features,
        glide: cascade.Glide,
        names: Sequence[str],
        inverts: Any = None,
    ):
        """Makes the inputs, in the layout that is open.

        Args:
          tab: its name, the first part of the identities of the inputs.
          found: what the models support.
          glide: the models.
          names: of the options.
          inverts: the checkbox of inversion, or None.
        """
        self._tab, self._inverts = tab, inverts
        self._features, self._glide = found, glide
        self.components = {
            name: self._make(name) for name in names if self._can_apply(name)
        }
        deciding = [self.components.get(name) for name in _DECIDING]
        for component in (*deciding, inverts):
            if component is not None:
                self._react(component)

    def _react(self, component: Any) -> None:
        """Shows what has an effect whenever a component changes."""
        shown = list(self.components.values())
        inputs = {*shown, *([] if self._inverts is None else [self._inverts])}

        def update(values: dict[Any, Any]) -> list[Any]:
            given = self._values(values)
            if self._inverts is not None:
                given["inverts"] = values[self._inverts]
            return [
                gr.update(visible=self._features.applies(name, given))
                for name in self.components
            ]

        component.change(update, inputs, shown, show_progress="hidden")

    def read(
        self, values: Mapping[Any, Any], *, inverts: bool = False, fills: bool = False
    ) -> dict[str, Any]:
        """Returns the options from the values of the components; see `chosen`."""
        given = self._values(values)
        return self._features.chosen(given, inverts=inverts, fills=fills)

    def _values(self, values: Mapping[Any, Any]) -> dict[str, Any]:
        found = {name: values[one] for name, one in self.components.items()}
        return {n: v.strip() if isinstance(v, str) else v for n, v in found.items()}

    def _can_apply(self, name: str) -> bool:
        known = self._features
        return any(
            known.applies(
                name,
                {"guidance_mode": mode, "sampler": one, "upsampler_sampler": other},
            )
            for mode in known.guidance_modes
            for one in known.samplers or (known.defaults["sampler"],)
            for other in known.upsampler_samplers or ("ddim",)
        )

    def _make(self, name: str) -> Any:
        about, default = options.about(name), self._features.defaults.get(name)
        label = _LABELS.get(name, name.replace("_", " "))
        given: dict[str, Any] = {
            "label": label,
            "info": about.help.removesuffix("; the bundle's if left out"),
            "visible": self._features.applies(name, {}),
            "elem_id": f"{self._tab}-{name}",
        }
        if about.kind == "choice":
            choices = [(_MODES.get(one, one), one) for one in self._choices(name)]
            kind = (
                gr.Radio if name in ("guidance_mode", "inpaint_mode") else gr.Dropdown
            )
            return kind(choices, value=default, **given)
        if about.kind == "whole":
            return gr.Slider(0, 16, value=0, step=1, **given)
        if about.kind == "text":
            return gr.Textbox(value=default or "", max_lines=1, **given)
        least, most = 0.0, 1.0
        if name == "guidance_scale":
            least, most = self._glide.base.unet.guidance_range or (0.0, 10.0)
        elif name == "clip_guidance_scale":
            least, most = 0.0, max(10.0, 4 * float(default or 0))
        return gr.Slider(least, most, value=default, step=0.1, **given)

    def _choices(self, name: str) -> Sequence[str]:
        return {
            "guidance_mode": self._features.guidance_modes,
            "inpaint_mode": self._features.inpaint_modes,
            "sampler": self._features.samplers,
            "upsampler_sampler": self._features.upsampler_samplers,
        }[name]


def as_seed(text: str) -> int:
    """Returns the seed of an input, or another one each time if it is empty.

    Raises:
      UserError: not a whole number in the range of seeds.
    """
    if not text.strip():
        return secrets.randbelow(options.MAX_KEY + 1)
    if not text.strip().isdecimal() or int(text) > options.MAX_KEY:
        raise UserError(
            f"seed {text.strip()!r:.40} is not a whole number from 0 to "
            f"{options.MAX_KEY}; give one, or none"
        )
    return int(text)


def as_scales(text: str) -> list[float]:
    """Returns the scales of "1, 2, 3".

    Raises:
      UserError: not two to eight different numbers.
    """
    try:
        found = [float(part) for part in text.replace(";", ",").split(",")]
    except ValueError as error:
        raise UserError(
            f"{text!r:.60} is not a list of scales; give numbers, e.g. 1, 2, 3"
        ) from error
    if not 2 <= len(set(found)) == len(found) <= 8:
        raise UserError(f"{text!r:.60}: give two to eight different scales")
    return found
