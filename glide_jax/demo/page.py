"""The page: its tabs, the ways of a picture from one to another, and its looks."""

from __future__ import annotations

import pathlib
from typing import Any

import gradio as gr
import gradio.themes

from glide_jax.demo import (
    ballot,
    change_tabs,
    history,
    panel,
    studio,
    tabs,
    vote_tab,
)

_FONTS = ["system-ui", "sans-serif"]
_MONO = ["ui-monospace", "monospace"]
_CSS = """
.status p { margin: .2rem 0; }
.status progress { width: 100%; height: .6rem; }
.status img.preview { max-width: 100%; margin-top: .5rem; image-rendering: pixelated; }
.status .refusal { color: #b00020; font-weight: 600; }
.dark .status .refusal { color: #ff8a95; }
.pictures img { image-rendering: pixelated; }
.pictures .grid-wrap { height: auto; min-height: 0; max-height: 40rem; }
"""


def make_page(own: studio.Studio, votes: ballot.Ballot) -> gr.Blocks:
    """Returns the page; `web.mount` serves it."""
    with gr.Blocks(
        title="GLIDE", analytics_enabled=False, delete_cache=(3600, 3600)
    ) as page:
        gr.Markdown(_heading(own))
        with gr.Tabs(elem_id="tabs") as bar:
            with gr.Tab("Prompt to picture", id="draw"):
                draw = tabs.DrawTab(own)
            with gr.Tab("Paint and fill", id="fill"):
                fill = change_tabs.FillTab(own)
            with gr.Tab("Edit", id="edit"):
                edit = change_tabs.EditTab(own)
            if "cfg" in own.features["draw"].guidance_modes:
                with gr.Tab("Compare", id="compare"):
                    tabs.CompareTab(own)
            with gr.Tab("Vote", id="vote"):
                vote_tab.VoteTab(own, votes)
            with gr.Tab("History", id="history") as tab:
                _make_history(own.history, tab)
        for tab in (draw, fill, edit):
            _connect(tab.panel, bar, (fill, edit))
        page.unload(_make_leave(own))
    return page


def looks() -> dict[str, Any]:
    """Returns the theme and the style of the page, without fonts from a network."""
    theme = gradio.themes.Default(font=_FONTS, font_mono=_MONO)
    return {"theme": theme, "css": _CSS}


def _heading(own: studio.Studio) -> str:
    folders = own.models.bundles
    given = [folders.base, folders.upsampler, folders.clip]
    given += [folders.fill_base, folders.fill_upsampler]
    names = ", ".join(f"`{pathlib.Path(one).name}`" for one in given if one)
    px = own.models.draw.image_px
    return f"# GLIDE\n\nModels: {names}; pictures of {px} x {px} px."


def _connect(source: panel.Panel, bar: gr.Tabs, targets: Any) -> None:
    """Makes the buttons of a tab send its selected picture."""
    place = gr.State(None)

    def select(event: gr.SelectData) -> int:
        return event.index

    source.gallery.select(select, None, place, show_progress="hidden")
    source.item.change(lambda: None, None, place, show_progress="hidden")
    names = ("fill", "edit")
    for button, target, name in zip(source.sends, targets, names, strict=True):

        def send(item: Any, number: int | None, target=target, name=name) -> list[Any]:
            return [gr.Tabs(selected=name), *target.take(item, number)]

        button.click(
            send, [source.item, place], [bar, *target.takes], show_progress="hidden"
        )


def _make_history(kept: history.History, tab: gr.Tab) -> None:
    """Makes the list of what was drawn since the start."""
    gr.Markdown(f"What was drawn since the start; it is kept in `{kept.folder}`.")
    which = gr.Dropdown([], label="drawn", elem_id="history-which")
    gallery = panel.make_gallery("history-pictures")
    command = panel.make_command("history-command")
    settings = gr.JSON(label="settings", elem_id="history-settings")
    download = gr.DownloadButton(
        "Download as a zip file", visible=False, elem_id="history-download"
    )

    def refresh() -> Any:
        titles = [(item.title, item.folder.name) for item in reversed(kept.items)]
        return gr.update(choices=titles, value=titles[0][1] if titles else None)

    def show(name: str | None) -> list[Any]:
        for item in kept.items:
            if item.folder.name == name:
                file = gr.update(value=str(history.write_zip(item)), visible=True)
                shown = panel.pictures_of(item)
                return [shown, panel.shown_command(item), item.settings, file]
        return [[], gr.update(visible=False), None, gr.update(visible=False)]

    tab.select(refresh, None, which, show_progress="hidden")
    which.change(
        show, which, [gallery, command, settings, download], show_progress="hidden"
    )


def _make_leave(own: studio.Studio) -> Any:
    def leave(request: gr.Request) -> None:
        if request.session_hash is not None:
            own.leave(request.session_hash)

    return leave
