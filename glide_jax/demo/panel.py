"""The result side of a tab: progress with a preview, pictures, and their command."""

from __future__ import annotations

import base64
import html
import io
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from glide_jax.demo import history, studio
from glide_jax.demo.commands import Work
from glide_jax.errors import UserError
from glide_jax.runtime import wording
from glide_jax.sample import image_io

_POLL_S = 0.1
_PREVIEW_PX = 192
_STAGES = {"base": "base model", "upsampler": "upsampler"}


class Panel:
    """Where a tab shows what it draws.

    Attributes:
      outputs: the components that `follow` updates.
      sends: the buttons that send the selected picture to other tabs.
    """

    def __init__(self, own: studio.Studio, name: str, *, has_gallery: bool = True):
        """Makes the components, in the layout that is open.

        Args:
          own: draws.
          name: of the tab.
          has_gallery: whether pictures and commands are shown here.
        """
        self._studio, self.name = own, name
        self.cancel = gr.Button(
            "Cancel", size="sm", interactive=False, elem_id=f"{name}-cancel"
        )
        self.status = gr.HTML("", elem_id=f"{name}-status", elem_classes="status")
        # What the tab has, as `history.Item`; None before.
        self.item = gr.State(None)
        self.outputs = [self.status, self.cancel, self.item]
        self.has_gallery = has_gallery
        self.sends: list[gr.Button] = []
        if has_gallery:
            self.gallery = make_gallery(f"{name}-pictures")
            with gr.Row():
                self.sends = [
                    gr.Button(
                        f"Use as input: {label}", size="sm", elem_id=f"{name}-{to}"
                    )
                    for label, to in (
                        ("paint and fill", "to-fill"),
                        ("edit", "to-edit"),
                    )
                ]
            self.command = make_command(f"{name}-command")
            self.outputs += [self.gallery, self.command]
        self.cancel.click(self._cancel, outputs=[], show_progress="hidden")

    def follow(
        self,
        make: Callable[[], Sequence[Work]],
        request: gr.Request,
        *,
        keeps: str = "listed",
    ) -> Iterator[list[Any]]:
        """Draws works, and yields the updates of `outputs` meanwhile.

        Args:
          make: makes the works; a UserError is shown.
          request: of the browser.
          keeps: see `studio.Ticket`.
        """
        try:
            ticket = self._studio.submit(
                make(), (request.session_hash, self.name), keeps=keeps
            )
        except UserError as error:
            yield self._updates(refusal(error), False)
            return
        start, shown = time.monotonic(), ""
        while not ticket.future.done():
            page = _progress(ticket, self._studio.ahead(ticket))
            if page != shown:
                shown = page
                yield self._updates(page, True)
            futures.wait([ticket.future], _POLL_S)
        yield self._end(ticket, time.monotonic() - start)

    def _end(self, ticket: studio.Ticket, seconds: float) -> list[Any]:
        if ticket.future.cancelled():
            return self._updates("<p>Cancelled.</p>", False)
        error = ticket.future.exception()
        if error is not None:
            if not isinstance(error, UserError):
                line = "the pictures could not be drawn; the log has the reason"
                error = UserError(line)
            return self._updates(refusal(error), False)
        (item,) = ticket.future.result()
        count = sum(len(run.pictures) for run in item.runs)
        line = f"<p>{wording.counted(count, 'picture')} in {seconds:.1f} s.</p>"
        return self._updates(line, False, item)

    def _updates(
        self, page: str, is_drawing: bool, item: history.Item | None = None
    ) -> list[Any]:
        found = [page, gr.update(interactive=is_drawing)]
        found.append(gr.skip() if item is None else item)
        if self.has_gallery and item is not None:
            found += [pictures_of(item), shown_command(item)]
        elif self.has_gallery:
            found += [gr.skip(), gr.skip()]
        return found

    def _cancel(self, request: gr.Request) -> None:
        self._studio.cancel((request.session_hash, self.name))


def make_gallery(name: str) -> gr.Gallery:
    """Returns the component that shows pictures."""
    return gr.Gallery(
        show_label=False,
        columns=4,
        object_fit="contain",
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id=name,
        elem_classes="pictures",
    )


def make_command(name: str) -> gr.Code:
    """Returns the component that shows commands."""
    return gr.Code(
        label="the command that draws these pictures again",
        language="shell",
        interactive=False,
        lines=1,
        visible=False,
        elem_id=name,
    )


def shown_command(item: history.Item) -> Any:
    """Returns the update of such a component."""
    return gr.update(value=item.command, visible=True)


def pictures_of(item: history.Item) -> list[tuple[str, str]]:
    """Returns files and captions of an item, the original of a change first."""
    run = item.runs[0]
    first = []
    if run.work.picture is not None:
        first = [(str(run.folder / "image.png"), "original")]
    return [*first, *item.captioned]


def selected_pixels(item: history.Item | None, place: int | None) -> np.ndarray:
    """Returns a picture of a gallery, uint8 (H, W, 3).

    Args:
      item: what is shown.
      place: the selected one; None: the first that was drawn.

    Raises:
      UserError: nothing is shown.
    """
    if item is None:
        raise UserError("there is no picture yet; draw one first")
    shown = pictures_of(item)
    drawn = len(shown) - len(item.captioned)
    if place is None or not 0 <= place < len(shown):
        place = drawn
    return image_io.read_image(shown[place][0])


def refusal(error: UserError) -> str:
    """Returns an error as HTML."""
    return f'<p class="refusal" role="alert">{as_html(str(error))}</p>'


def as_html(text: str) -> str:
    """Returns a text as HTML."""
    return html.escape(text)


def explained(line: str, picture: np.ndarray) -> str:
    """Returns a line with a picture, uint8 (H, W, 3), as HTML."""
    return f"<p>{as_html(line)}</p>{_image(Image.fromarray(picture), line)}"


def _progress(ticket: studio.Ticket, ahead: int) -> str:
    """Returns the state of a ticket as HTML."""
    if ahead:
        return f"<p>In the queue; {wording.counted(ahead, 'request')} before this.</p>"
    found = ticket.progress
    which = ""
    if found.num_works > 1:
        which = f"setting {found.work} of {found.num_works}, "
    stage = _STAGES.get(found.stage, "models")
    if not found.total:
        return f"<p>{which}{stage}: getting ready; new settings are compiled.</p>"
    line = f"{which}{stage}, step {found.num_made} of {found.total}"
    bar = f'<progress value="{found.num_made}" max="{found.total}"></progress>'
    picture = ""
    if ticket.preview is not None:
        picture = _preview(ticket.preview)
    return f"<p>{line}</p>{bar}{picture}"


def _preview(pictures: np.ndarray) -> str:
    """Returns predicted pictures as an element of HTML."""
    row = image_io.make_grid(pictures, min(len(pictures), 8))
    factor = max(1, _PREVIEW_PX // pictures.shape[1])
    image = Image.fromarray(row)
    image = image.resize((image.width * factor, image.height * factor), 0)
    return _image(image, "prediction")


def _image(image: Image.Image, meaning: str) -> str:
    content = io.BytesIO()
    image.save(content, format="PNG")
    text = base64.b64encode(content.getvalue()).decode()
    source = f"data:image/png;base64,{text}"
    return f'<img class="preview" alt="{as_html(meaning)}" src="{source}">'
