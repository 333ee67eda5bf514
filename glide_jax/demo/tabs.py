"""The tabs that draw pictures of prompts: one setting, or several scales beside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from glide_jax.demo import controls, features, history, panel, studio
from glide_jax.demo.commands import Work
from glide_jax.errors import UserError
from glide_jax.sample import cascade

EXAMPLE = "a large red circle on a black background"


def make_prompt(name: str) -> gr.Textbox:
    """Returns the input of a prompt."""
    return gr.Textbox(
        label="prompt", placeholder=f"e.g. {EXAMPLE}", elem_id=f"{name}-prompt"
    )


def make_numbers(name: str, most: int, count: int) -> tuple[gr.Slider, gr.Textbox]:
    """Returns the inputs of the number of pictures and the seed."""
    with gr.Row():
        number = gr.Slider(
            *(1, most),
            value=min(count, most),
            step=1,
            label="pictures",
            elem_id=f"{name}-count",
        )
        seed = gr.Textbox(
            label="seed",
            placeholder="another one each time",
            max_lines=1,
            elem_id=f"{name}-seed",
        )
    return number, seed


class DrawTab:
    """A prompt to pictures.

    Attributes:
      panel: the results.
    """

    def __init__(self, own: studio.Studio):
        """Makes the tab, in the layout that is open."""
        glide, found = own.models.draw, own.features["draw"]
        with gr.Row():
            with gr.Column(scale=2):
                self._prompt = make_prompt("draw")
                self._count, self._seed = make_numbers(
                    "draw", own.limits.pictures, studio.WARM_PICTURES
                )
                button = gr.Button("Draw", variant="primary", elem_id="draw-go")
                self._controls = make_controls("draw", found, glide)
            with gr.Column(scale=3):
                self.panel = panel.Panel(own, "draw")
        inputs = {self._prompt, self._count, self._seed}
        inputs |= set(self._controls.components.values())
        for trigger in (button.click, self._prompt.submit):
            trigger(self._draw, inputs, self.panel.outputs, show_progress="hidden")

    def _draw(self, values: dict[Any, Any], request: gr.Request) -> Iterator[list[Any]]:
        def make() -> Sequence[Work]:
            chosen = self._controls.read(values)
            chosen["seed"] = controls.as_seed(values[self._seed])
            count = int(values[self._count])
            return [Work("sample", values[self._prompt], count, chosen)]

        yield from self.panel.follow(make, request)


class CompareTab:
    """One prompt and seed at several guidance scales.

    Attributes:
      panel: the results.
    """

    def __init__(self, own: studio.Studio):
        """Makes the tab, in the layout that is open."""
        glide, found = own.models.draw, own.features["draw"]
        with gr.Row():
            with gr.Column(scale=2):
                self._prompt = make_prompt("compare")
                self._scales = gr.Textbox(
                    *("1, 2, 3, 5",),
                    label="guidance scales",
                    info="two to eight numbers, with commas; 1 is without guidance",
                    elem_id="compare-scales",
                )
                self._count, self._seed = make_numbers("compare", 4, 1)
                button = gr.Button("Compare", variant="primary", elem_id="compare-go")
                names = [n for n in controls.GUIDANCE if n != "guidance_scale"]
                self._controls = make_controls("compare", found, glide, guidance=names)
            with gr.Column(scale=3):
                self.panel = panel.Panel(own, "compare", has_gallery=False)
                self._strip = gr.Image(
                    show_label=False,
                    format="png",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    elem_id="compare-strip",
                )
                self._command = panel.make_command("compare-command")
        inputs = {self._prompt, self._scales, self._count, self._seed}
        inputs |= set(self._controls.components.values())
        outputs = self.panel.outputs
        button.click(self._draw, inputs, outputs, show_progress="hidden")
        shown = [self._strip, self._command]
        self.panel.item.change(_as_strip, self.panel.item, shown)

    def _draw(self, values: dict[Any, Any], request: gr.Request) -> Iterator[list[Any]]:
        def make() -> Sequence[Work]:
            common = self._controls.read(values)
            if "cfg" not in common.get("guidance_mode", "cfg"):
                raise UserError(
                    f"guidance {common['guidance_mode']} has no such scale; choose "
                    "classifier-free"
                )
            common["seed"] = controls.as_seed(values[self._seed])
            return [
                Work(
                    "sample",
                    values[self._prompt],
                    int(values[self._count]),
                    {**common, "guidance_scale": scale},
                    label=f"scale {scale:g}",
                )
                for scale in controls.as_scales(values[self._scales])
            ]

        yield from self.panel.follow(make, request)


def _as_strip(item: history.Item | None) -> list[Any]:
    if item is None:
        return [gr.skip(), gr.skip()]
    return [str(history.strip_of(item)), panel.shown_command(item)]


def make_controls(
    tab: str,
    found: features.Features,
    glide: cascade.Glide,
    *,
    guidance: Sequence[str] = controls.GUIDANCE,
    more: Sequence[str] = (),
    inverts: Any = None,
) -> controls.Controls:
    """Returns the inputs of the options, in a part of the page that can be closed."""
    names = [*more, *guidance, *controls.STEPS]
    if glide.upsampler is not None:
        names += controls.UPSAMPLER
    with gr.Accordion("Settings"):
        return controls.Controls(tab, found, glide, names, inverts)
