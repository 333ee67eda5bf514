"""Read every record of a source once, and report bad records.

    glide data check folder:photos
    glide data check folder:photos --px=64 --tokenizer=runs/base/tokenizer --context=32

It decodes every picture and reads every caption. It lists each bad record with its
reason, then the sizes of the pictures, the lengths of the captions, and duplicates. The
exit code is 2 if training would stop at data.max_bad_frac.
"""

from __future__ import annotations

import os

from absl import flags

from glide_jax.cli import data_flags, define, sampling, stopping
from glide_jax.errors import UserError


def define_flags(values: flags.FlagValues) -> None:
    """Defines the split, the sizes and the tokenizer of the check."""
    add = define.Define(values)
    add.text("split", "split that is read, if the source has splits", "train")
    add.whole("px", "training size, pixels; smaller pictures are counted", least=1)
    add.path(
        "tokenizer", "folder of a tokenizer, gpt2 or clip: counts tokens of captions"
    )
    add.whole("context", "tokens of a caption that a model reads", 128, least=1)
    add.whole("num_threads", "decoding threads; by default one per core", least=1)
    add.number("max_bad_frac", "share of bad records above which training stops", 0.01)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Prints the report."""
    from glide_jax.data import bad_records, survey
    from glide_jax.text import tokenizers

    if len(arguments) != 1:
        raise UserError(
            f"{len(arguments)} sources given; give one, e.g. glide data check "
            "folder:photos"
        )
    source = data_flags.open_source(arguments[0], values.split)
    tokenizer = (
        tokenizers.make_tokenizer(values.tokenizer) if values.tokenizer else None
    )
    with (
        stopping.on_signal() as poll,
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
    for line in survey.describe(found, px=values.px or 0, context=values.context):
        print(line)
    counter = bad_records.FaultCounter(
        values.max_bad_frac, found.records, on_bad=lambda bad: None
    )
    counter.count(found.records - len(found.bad), found.bad)
    return 0
