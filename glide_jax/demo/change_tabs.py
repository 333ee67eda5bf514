"""The tabs that change a picture: repaint a part of it, or edit all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr
import numpy as np

from glide_jax.demo import controls, painting, panel, studio, tabs
from glide_jax.demo.commands import Work
from glide_jax.errors import UserError
from glide_jax.sample import image_io

_MEANING = (
    "Paint over the part to repaint. Everything else is kept, to the pixel. The square "
    "is what the models draw."
)
_PINK = "rgba(255, 60, 140, 0.8)"
_COLOURS = ("#d62828", "#2a9d3a", "#2659c9", "#f2c230", "#7b3fa0", "#000000", "#ffffff")


class _PaintedTab:
    """A tab with a picture that is painted on.

    Attributes:
      panel: the results.
      picture: the state with the picture, uint8 (H, W, 3) or None.
      editor: where it is painted on.
    """

    panel: panel.Panel
    picture: gr.State
    editor: gr.ImageEditor

    def _make_editor(self, name: str, brush: gr.Brush, *, is_white: bool) -> None:
        """Makes the editor, and the button that uploads a picture."""
        self._is_white = is_white
        self.picture = gr.State(None)
        with gr.Row():
            upload = gr.UploadButton(
                "Upload a picture",
                file_types=["image"],
                size="sm",
                elem_id=f"{name}-upload",
            )
            clear = gr.Button("Remove the paint", size="sm")
        side = painting.CANVAS_PX
        # Any: the editor's own type of it is a TypedDict of gradio.
        value: Any = painting.blank() if is_white else None
        self.editor = gr.ImageEditor(
            value,
            label="picture",
            show_label=False,
            height=440,
            sources=(),
            transforms=(),
            brush=brush,
            eraser=gr.Eraser(default_size=40),
            layers=False,
            placeholder="Upload a picture, or send one from another tab.",
            format="png",
            canvas_size=(side, side),
            buttons=["fullscreen"],
            elem_id=f"{name}-editor",
        )
        self._error = gr.HTML("", elem_classes="status")
        outputs = [self.picture, self.editor, self._error]
        upload.upload(self._upload, upload, outputs, show_progress="hidden")
        clear.click(self._show, self.picture, self.editor, show_progress="hidden")

    def _upload(self, path: str) -> list[Any]:
        try:
            picture = image_io.read_image(path)
        except UserError as error:
            line = str(error).replace(path, "the file")
            return [gr.skip(), gr.skip(), panel.refusal(UserError(line))]
        return [picture, self._show(picture), ""]

    def _show(self, picture: np.ndarray | None) -> Any:
        """Returns the value of the editor for a picture without paint."""
        if picture is None:
            return painting.blank() if self._is_white else None
        return painting.editable(picture)

    def take(self, item: Any, place: int | None) -> list[Any]:
        """Returns the updates of `takes` for a picture of another tab."""
        try:
            picture = panel.selected_pixels(item, place)
        except UserError as error:
            return [gr.skip(), gr.skip(), panel.refusal(error)]
        return [picture, self._show(picture), ""]

    @property
    def takes(self) -> list[Any]:
        """The outputs of `take`."""
        return [self.picture, self.editor, self._error]


class FillTab(_PaintedTab):
    """Paint and fill."""

    def __init__(self, own: studio.Studio):
        """Makes the tab, in the layout that is open."""
        self._glide = own.models.fill
        with gr.Row():
            with gr.Column(scale=2):
                gr.Markdown(_MEANING)
                brush = gr.Brush(
                    default_size=40,
                    colors=[_PINK],
                    default_color=_PINK,
                    color_mode="fixed",
                )
                self._make_editor("fill", brush, is_white=False)
                self._hole = gr.HTML("", elem_id="fill-hole", elem_classes="status")
                self._prompt = tabs.make_prompt("fill")
                self._count, self._seed = tabs.make_numbers(
                    "fill", own.limits.pictures, 3
                )
                button = gr.Button("Fill", variant="primary", elem_id="fill-go")
                self._controls = tabs.make_controls(
                    "fill", own.features["fill"], self._glide, more=controls.INPAINT
                )
            with gr.Column(scale=3):
                self.panel = panel.Panel(own, "fill")
        shown = set(self._controls.components.values())
        inputs = {self.picture, self.editor, self._prompt, self._count, self._seed}
        button.click(
            self._draw, inputs | shown, self.panel.outputs, show_progress="hidden"
        )
        # A change alone is not always told after a stroke.
        gr.on(
            [self.editor.change, self.editor.input],
            self._explain,
            {self.picture, self.editor} | shown,
            self._hole,
            show_progress="hidden",
            trigger_mode="always_last",
        )

    def _find_hole(self, values: dict[Any, Any]) -> painting.Hole:
        chosen = self._controls.read(values, fills=True)
        feather = chosen.get("feather_px", 0)
        picture, value = values[self.picture], values[self.editor]
        return painting.find_hole(picture, value, self._glide, feather)

    def _explain(self, values: dict[Any, Any]) -> str:
        try:
            hole = self._find_hole(values)
        except UserError as error:
            return f"<p>{panel.as_html(str(error))}</p>"
        return panel.explained(hole.statement, hole.shown)

    def _draw(self, values: dict[Any, Any], request: gr.Request) -> Iterator[list[Any]]:
        def make() -> Sequence[Work]:
            hole = self._find_hole(values)
            chosen = self._controls.read(values, fills=True)
            chosen["seed"] = controls.as_seed(values[self._seed])
            return [
                Work(
                    "inpaint",
                    values[self._prompt],
                    int(values[self._count]),
                    chosen,
                    picture=values[self.picture],
                    known=hole.known,
                )
            ]

        yield from self.panel.follow(make, request)


class EditTab(_PaintedTab):
    """Edit a sketch or a picture."""

    def __init__(self, own: studio.Studio):
        """Makes the tab, in the layout that is open."""
        self._glide, found = own.models.draw, own.features["draw"]
        with gr.Row():
            with gr.Column(scale=2):
                gr.Markdown("Paint a sketch, or upload a picture and paint on it.")
                brush = gr.Brush(
                    default_size=40, colors=[*_COLOURS], default_color=_COLOURS[0]
                )
                self._make_editor("edit", brush, is_white=True)
                self._prompt = tabs.make_prompt("edit")
                self._strength = gr.Slider(
                    *(0.05, 1),
                    value=0.6,
                    step=0.05,
                    label="strength",
                    info="near 0 keeps the picture, 1 keeps nothing of it",
                    elem_id="edit-strength",
                )
                self._inverts = self._source = None
                if found.can_invert:
                    self._make_inversion()
                self._count, self._seed = tabs.make_numbers(
                    "edit", own.limits.pictures, 3
                )
                button = gr.Button("Edit", variant="primary", elem_id="edit-go")
                self._controls = tabs.make_controls(
                    "edit", found, self._glide, inverts=self._inverts
                )
            with gr.Column(scale=3):
                self.panel = panel.Panel(own, "edit")
        inputs = {self.picture, self.editor, self._prompt, self._strength}
        inputs |= {self._count, self._seed, *self._controls.components.values()}
        if self._inverts is not None:
            inputs |= {self._inverts, self._source}
        button.click(self._draw, inputs, self.panel.outputs, show_progress="hidden")

    def _make_inversion(self) -> None:
        self._inverts = gr.Checkbox(
            label="invert the picture",
            info="computes its noise by DDIM, which keeps more of a real picture",
            elem_id="edit-inverts",
        )
        self._source = gr.Textbox(
            label="caption of the picture", visible=False, elem_id="edit-source"
        )
        self._inverts.change(
            lambda inverts: gr.update(visible=inverts),
            *(self._inverts, self._source),
            show_progress="hidden",
        )

    def _draw(self, values: dict[Any, Any], request: gr.Request) -> Iterator[list[Any]]:
        def make() -> Sequence[Work]:
            source = None
            if self._inverts is not None and values[self._inverts]:
                source = values[self._source]
                if not source.strip():
                    raise UserError(
                        "inversion needs a caption of the picture; write what it shows"
                    )
            chosen = self._controls.read(values, inverts=source is not None)
            chosen["seed"] = controls.as_seed(values[self._seed])
            picture = painting.sketched(
                values[self.picture], values[self.editor], self._glide.image_px
            )
            return [
                Work(
                    "edit",
                    values[self._prompt],
                    int(values[self._count]),
                    chosen,
                    picture=picture,
                    strength=float(values[self._strength]),
                    source_prompt=source,
                )
            ]

        yield from self.panel.follow(make, request)
