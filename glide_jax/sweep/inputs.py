"""Checks that the inputs of a sweep's runs exist: data, bundles, origins and files.

They are checked before the first start, so that a missing folder does not end a sweep
at its last run.
"""

from __future__ import annotations

import functools
import pathlib
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple

from glide_jax.config import defaults
from glide_jax.data import sources
from glide_jax.errors import UserError
from glide_jax.runtime import paths

BUNDLES = ("base", "upsampler", "clip", "judge")
FILES = ("reference", "prompt_file", "curves")
# Flags of data sources, and the split that they read.
SOURCES = {"captions_of": "validation", "loss_source": "validation", "source": "train"}
_KIND = re.compile(r"[a-z_0-9]+:(?!//)")


class Input(NamedTuple):
    """An input of a run.

    Attributes:
      name: The setting or flag, e.g. "data.sources" or "--base".
      value: Its value; an input that many runs share is checked once.
      check: Raises UserError if the input is missing.
      place: The file or folder, if it is one.
    """

    name: str
    value: Hashable
    check: Callable[[], object]
    place: pathlib.Path | None = None


def of_training(config: defaults.Config) -> Iterator[Input]:
    """Yields the inputs of a training run."""
    from glide_jax.text import tokenizers
    from glide_jax.train import init_from

    data = config.data
    opened = functools.partial(sources.open_mixture, data.sources, data.weights)
    yield Input("data.sources", (data.sources, data.weights), opened)
    if held_out := data.validation_sources:
        weights = (1.0,) * len(held_out)
        opened = functools.partial(
            sources.open_mixture, held_out, weights, split="validation"
        )
        yield Input("data.validation_sources", held_out, opened)
    spec = data.tokenizer
    if (
        spec
        and spec not in tokenizers.published()
        and not spec.startswith("sentencepi")
    ):
        opened = functools.partial(tokenizers.make_tokenizer, spec)
        yield Input("data.tokenizer", spec, opened, _place(spec, "data.tokenizer"))
    if origin := config.train.init_from:
        opened = functools.partial(init_from.read_config, origin)
        yield Input("train.init_from", origin, opened, _place(origin, "init_from"))
    if config.evaluate.every_steps:
        yield from _features("evaluate.features", config.evaluate.features)
        yield _file("evaluate.reference", config.evaluate.reference)


def of_flags(values: Mapping[str, Any]) -> Iterator[Input]:
    """Yields the inputs that the flags of another verb name."""
    given = {name: value for name, value in values.items() if value}
    for name in given.keys() & {*BUNDLES}:
        yield _bundle(f"--{name}", given[name])
    for name in given.keys() & {*FILES}:
        yield _file(f"--{name}", given[name])
    for name in given.keys() & SOURCES.keys():
        spec, split = given[name], SOURCES[name]
        opened = functools.partial(sources.open_source, spec, split=split)
        yield Input(f"--{name}", spec, opened)
    if images := given.get("images"):
        opened = functools.partial(
            sources.open_source, images, split="validation", captions_required=False
        )
        is_source = _KIND.match(images)
        yield (
            Input("--images", images, opened)
            if is_source
            else _file("--images", images)
        )
    yield from _features("--features", given.get("features", ""))


def check(runs: Iterable[tuple[str, Iterable[Input]]], made: Set[pathlib.Path]) -> None:
    """Raises UserError, with the run and the setting, for the first missing input.

    Args:
      runs: The label and the inputs of each run.
      made: Folders of the sweep's own runs, whose contents may not exist yet.
    """
    seen = set()
    for label, inputs in runs:
        for item in inputs:
            key, place = (item.name, item.value), item.place
            if key in seen or (place and made & {place, *place.parents}):
                continue
            seen.add(key)
            try:
                item.check()
            except UserError as error:
                text = str(error)
                named = text if item.name in text else f"{item.name}: {text}"
                raise UserError(f"run {label}: {named}") from error


def _features(name: str, spec: str) -> Iterator[Input]:
    kind, _, place = spec.partition(":")
    if place:
        yield _bundle(name, place) if kind == "clip" else _file(name, place)


def _bundle(name: str, given: str) -> Input:
    place = _place(given, name)
    return Input(
        name,
        given,
        functools.partial(_refuse_absent, name, given, place / "bundle.json", "bundle"),
        place,
    )


def _file(name: str, given: str) -> Input:
    place = _place(given, name)
    absent = functools.partial(_refuse_absent, name, given, place, "file or folder")
    return Input(name, given, absent, place)


def _refuse_absent(name: str, given: str, path: pathlib.Path, what: str) -> None:
    if not path.exists():
        raise UserError(f"{name}={given} is not a {what}; name one that exists")


def _place(given: str, name: str) -> pathlib.Path:
    return paths.local_path(given, name).absolute()
