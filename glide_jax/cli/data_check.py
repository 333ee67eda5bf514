"""Read every record of a source once, and report what cannot be used.

    glide data check folder:photos
    glide data check folder:photos --px=64 --tokenizer=runs/base/tokenizer --context=32

It decodes every picture and reads every caption. It lists each record that cannot be
used with its reason, then the sizes of the pictures, the lengths of the captions, and
duplicates. The exit code is 2 where training would stop at data.max_bad_frac.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from absl import flags

from glide_jax.cli import data_flags, define, sampling, stopping
from glide_jax.errors import UserError
from glide_jax.runtime import counts

if TYPE_CHECKING:
    from glide_jax.data import survey

# Duplicates that are named; all are counted.
NAMED = 5


def define_flags(values: flags.FlagValues) -> None:
    """What to read, and what to compare it with."""
    add = define.Define(values)
    add.text("split", "split that is read, if the source has splits", "train")
    add.whole("px", "side that pictures are read at; smaller ones are counted", least=1)
    add.path(
        "tokenizer", "folder of a tokenizer, or gpt2 or clip: counts tokens of captions"
    )
    add.whole("context", "tokens of a caption that a model reads", 128, least=1)
    add.whole("num_threads", "threads that decode; all cores if left out", least=1)
    add.number("max_bad_frac", "share of bad records that training allows", 0.01)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Prints the report."""
    from glide_jax.data import fault, survey
    from glide_jax.text import tokenizers

    if len(arguments) != 1:
        raise UserError(
            f"{len(arguments)} sources given; name one, e.g. glide data check "
            "folder:photos"
        )
    source = data_flags.open_source(arguments[0], values.split)
    tokenizer = (
        tokenizers.make_tokenizer(values.tokenizer) if values.tokenizer else None
    )
    with (
        stopping.heeded() as poll,
        sampling.progress_bar(len(source), "reading records") as update,
    ):

        def on_progress() -> None:
            poll()
            update(1)

        found = survey.survey(
            source,
            px=values.px or 0,
            tokenizer=tokenizer,
            context=values.context,
            num_threads=values.num_threads or os.cpu_count() or 1,
            on_progress=on_progress,
        )
    for bad in found.bad:
        print(f"{bad.key}: {bad.reason}")
    for line in _lines(found, values):
        print(line)
    counter = fault.FaultCounter(
        values.max_bad_frac, found.records, on_bad=lambda bad: None
    )
    counter.count(found.records - len(found.bad), found.bad)
    return 0


def _lines(found: survey.Survey, values: flags.FlagValues) -> list[str]:
    """The report, without the list of bad records."""
    usable = found.records - len(found.bad)
    lines = [f"{usable} of {counts.counted(found.records, 'record')} can be used"]
    if found.short_sides:
        lines.append(f"short side of the pictures: {_shown(found.short_sides)} px")
    if values.px:
        small = counts.counted(found.num_enlarged, "picture")
        lines.append(f"{small} below {values.px} px, which training enlarges")
    if found.caption_chars:
        lines.append(f"captions: {_shown(found.caption_chars)} characters")
    if found.caption_tokens:
        lines.append(
            f"captions: {_shown(found.caption_tokens)} tokens; {found.num_cut} are cut "
            f"at {values.context}"
        )
    for key, first in found.duplicates[:NAMED]:
        lines.append(f"{key}: the same picture and caption as {first}")
    lines.append(
        f"{counts.counted(len(found.duplicates), 'duplicate')}; "
        f"{counts.counted(found.same_pictures, 'picture')} again with another caption"
    )
    return lines


def _shown(spread: survey.Spread) -> str:
    return f"{spread.least} to {spread.most}, median {spread.median:g}"
