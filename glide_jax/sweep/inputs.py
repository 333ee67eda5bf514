"""Is all there that the runs of a sweep read: data, bundles, origins, files?

Looked for before the first run is started, so that a sweep does not end at its last run
because of a folder that was never there.
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
# Flags that name a data source, and the split that is read.
SOURCES = {"captions_of": "validation", "loss_source": "validation", "source": "train"}
_KIND = re.compile(r"[a-z_0-9]+:(?!//)")


class Input(NamedTuple):
    """What a run reads.

    Attributes:
      name: of the setting or flag, e.g. "data.sources" or "--base".
      value: of the setting; one that many runs share is looked at once.
      check: raises UserError where it is not there.
      place: the file or folder, if it is one.
    """

    name: str
    value: Hashable
    check: Callable[[], object]
    place: pathlib.Path | None = None


def of_training(config: defaults.Config) -> Iterator[Input]:
    """What a training run reads."""
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
    """What a run of another verb reads by those of its flags that are known here."""
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
    """Raises UserError, with the run and the setting, for what is not there.

    Args:
      runs: (label of a run, what it reads).
      made: folders of the sweep's own runs, in which everything may come later.
    """
    seen = set()
    for label, inputs in runs:
        for one in inputs:
            key = one.name, one.value
            if key in seen or (one.place and made & {one.place, *one.place.parents}):
                continue
            seen.add(key)
            try:
                one.check()
            except UserError as error:
                text = str(error)
                named = text if one.name in text else f"{one.name}: {text}"
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
        raise UserError(f"{name}={given} is no {what}; name one that is there")


def _place(given: str, name: str) -> pathlib.Path:
    return paths.local_path(given, name).absolute()
