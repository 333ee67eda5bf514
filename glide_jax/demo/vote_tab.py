"""The tab of votes: pairs of two settings, without their names, and ratings."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from glide_jax.demo import ballot, controls, history, panel, studio, tabs
from glide_jax.demo.commands import Work
from glide_jax.errors import UserError
from glide_jax.study import pairs

_ANSWERS = {"left": "Left", "neither": "Neither", "right": "Right"}


class VoteTab:
    """Two settings, compared by votes."""

    def __init__(self, own: studio.Studio, votes: ballot.Ballot):
        """Makes the tab, in the layout that is open."""
        self._features, self._votes = own.features["draw"], votes
        # (item, pair) of what is shown; None after the vote.
        self._pair = gr.State(None)
        with gr.Row():
            with gr.Column(scale=2):
                self._make_settings(own)
            with gr.Column(scale=3):
                self._make_vote(own)
        inputs = {self._prompts, self._question}
        for one in self._settings:
            inputs |= set(one.components.values())
        self._next.click(
            self._draw, inputs, self._panel.outputs, show_progress="hidden"
        )
        shown = [self._pair, self._question_text, *self._sides, *self._buttons.values()]
        # A new pair: the names of its settings stay in the server.
        self._panel.item.change(
            self._show,
            [self._panel.item, self._question],
            [*shown, self._said],
            show_progress="hidden",
        )
        for answer, button in self._buttons.items():
            button.click(
                self._make_answer(answer),
                [self._pair, self._question],
                [self._pair, self._said, self._ratings, *self._buttons.values()],
                show_progress="hidden",
            )

    def _make_settings(self, own: studio.Studio) -> None:
        self._prompts = gr.Textbox(
            label="prompts, one in each line",
            placeholder=f"e.g. {tabs.EXAMPLE}",
            lines=3,
            elem_id="vote-prompts",
        )
        self._question = gr.Radio(
            [(question.text, name) for name, question in pairs.QUESTIONS.items()],
            value="caption",
            label="question",
            elem_id="vote-question",
        )
        self._settings = []
        for name in ("A", "B"):
            with gr.Accordion(f"Setting {name}", elem_id=f"vote-{name}"):
                names = [*controls.GUIDANCE, *controls.STEPS]
                found = controls.Controls(
                    f"vote-{name}", self._features, own.models.draw, names
                )
                self._settings.append(found)
        self._next = gr.Button("Next pair", variant="primary", elem_id="vote-next")

    def _make_vote(self, own: studio.Studio) -> None:
        self._panel = panel.Panel(own, "vote", has_gallery=False)
        self._question_text = gr.Markdown("", elem_id="vote-text")
        with gr.Row():
            self._sides = [
                gr.Image(
                    show_label=False,
                    format="png",
                    interactive=False,
                    buttons=[],
                    elem_id=f"vote-{side}",
                    elem_classes="pictures",
                )
                for side in pairs.SIDES
            ]
        with gr.Row():
            self._buttons = {
                answer: gr.Button(label, interactive=False, elem_id=f"vote-go-{answer}")
                for answer, label in _ANSWERS.items()
            }
        self._said = gr.Markdown("", elem_id="vote-said")
        gr.Markdown(f"### Ratings\n\nThe votes are in `{self._votes.path}`.")
        self._ratings = gr.Markdown(self._votes.report, elem_id="vote-ratings")

    def _draw(self, values: dict[Any, Any], request: gr.Request) -> Iterator[list[Any]]:
        def make() -> Sequence[Work]:
            lines = [line.strip() for line in values[self._prompts].splitlines()]
            lines = [line for line in lines if line]
            if not lines:
                raise UserError("there is no prompt; write one in each line")
            chosen = [one.read(values) for one in self._settings]
            names = [self._features.describe(one) for one in chosen]
            if names[0] == names[1]:
                raise UserError(
                    f"both settings are {names[0]!r}; change one, so that there is "
                    "something to compare"
                )
            prompt, seed = secrets.choice(lines), controls.as_seed("")
            return [
                Work("sample", prompt, 1, {**one, "seed": seed}, label=name)
                for one, name in zip(chosen, names, strict=True)
            ]

        # Their names are not listed before the vote.
        yield from self._panel.follow(make, request, keeps="hidden")

    def _show(self, item: history.Item | None, question: str) -> list[Any]:
        if item is None:
            return [gr.skip()] * 8
        first, second = (run.work for run in item.runs)
        pair = ballot.shuffle(first.label, second.label, item.folder.name, first.prompt)
        asked = pairs.QUESTIONS[question]
        text = f"**{asked.text}**"
        if asked.shows_prompt:
            text += f"\n\n{panel.as_html(first.prompt)}"
        pictures = [item.pixels(place, 0) for place in pair.places]
        return [pair, text, *pictures, *([gr.update(interactive=True)] * 3), ""]

    def _make_answer(self, answer: str) -> Any:
        def vote(pair: ballot.Pair | None, question: str) -> list[Any]:
            if pair is None:
                return [gr.skip()] * 6
            try:
                said = self._votes.add(pair, answer, question)
            except UserError as error:
                return [gr.skip(), str(error), *([gr.skip()] * 4)]
            closed = [gr.update(interactive=False)] * 3
            return [None, said, self._votes.report(), *closed]

        return vote
