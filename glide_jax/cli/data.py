"""Prepare data: `build` writes records, `tokenizer` trains one, `emoji` draws a set.

    glide data build --source=folder:photos --name=photos --output=records
    glide data build --source=folder:more --name=photos --output=records \\
        --split=validation
    glide data tokenizer --source="webdataset:runs/emoji/*-train-*.tar" \\
        --vocab_size=2048 --output=runs/emoji/tokenizer
    glide data emoji --output=runs/emoji

A SIGTERM or Ctrl-C ends it with exit code 42. What it makes appears under its name only
when it is whole: the same command starts over, and a build removes what one that was
killed has left.
"""

from __future__ import annotations

import pathlib

from absl import flags

from glide_jax.cli import define, output, sampling, stopping
from glide_jax.errors import UserError

ACTIONS = ("build", "tokenizer", "emoji")


def define_flags(values: flags.FlagValues) -> None:
    """What to read, where to write, and the limits of each action."""
    flags.DEFINE_string(
        "source",
        None,
        "shapes:quickstart, shapes:full, webdataset:GLOB_OR_DIR, folder:DIR or "
        "tfds:NAME_OR_DIR; folder:DIR?image=EXT&caption=EXT_OR_COLUMN&captions=random "
        "selects files and captions, see docs/inputs.md",
        flag_values=values,
    )
    define.Define(values).path("output", "folder to write to")
    flags.DEFINE_string(
        "name", "captioned_images", "of the data set, for build", flag_values=values
    )
    flags.DEFINE_string(
        "split",
        "train",
        "that build reads, if the source has splits, and writes; another one is added "
        "to the data set of the same --output and --name",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "vocab_size", 2048, "pieces of a tokenizer", lower_bound=300, flag_values=values
    )
    flags.DEFINE_integer(
        "max_captions",
        200_000,
        "captions that a tokenizer is trained on",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_float(
        "max_bad_frac",
        0.01,
        "share of bad records that build skips",
        flag_values=values,
    )


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Does the one action given."""
    if len(arguments) != 1 or arguments[0] not in ACTIONS:
        raise UserError(
            f"{' '.join(arguments) or 'nothing'} asked for; give one of "
            f"{', '.join(ACTIONS)}, e.g. glide data emoji --output=runs/emoji"
        )
    if not values.output:
        raise UserError("--output is missing, e.g. --output=runs/data")
    act = {"build": _build, "tokenizer": _train_tokenizer, "emoji": _draw_emoji}

    with stopping.heeded() as poll, output.made_folder(values.output) as folder:
        act[arguments[0]](values, folder, poll)
    return 0


def _build(values: flags.FlagValues, folder: pathlib.Path, poll: stopping.Poll) -> None:
    from glide_jax.data import builders

    source = _source(values, values.split)
    with sampling.progress_bar(len(source), "writing records") as update:

        def on_progress() -> None:
            poll()
            update(1)

        place = builders.build_array_records(
            source,
            folder,
            values.name,
            split=values.split,
            max_bad_frac=values.max_bad_frac,
            on_progress=on_progress,
        )
    spec = f"'tfds:{place}?split={values.split}'"
    print(f"records are in {place}; use them with data.sources=({spec},)")


def _train_tokenizer(
    values: flags.FlagValues, folder: pathlib.Path, poll: stopping.Poll
) -> None:
    from glide_jax.data import sources
    from glide_jax.text import sentencepiece_model, sentencepiece_training, tokenizers

    source = _source(values)
    captions = sources.sample_captions(source, values.max_captions, on_progress=poll)
    # Seconds, during which SentencePiece lets no signal through.
    model = sentencepiece_training.train_sentencepiece(captions, values.vocab_size)
    poll()
    tokenizer = sentencepiece_model.SentencePieceTokenizer(model)
    tokenizers.save(tokenizer, folder)
    print(
        f"{tokenizer.vocab_size} pieces from {len(captions)} captions are in {folder}; "
        f"use them with data.tokenizer={folder}"
    )


def _draw_emoji(
    values: flags.FlagValues, folder: pathlib.Path, poll: stopping.Poll
) -> None:
    from glide_jax import progress
    from glide_jax.data import emoji

    with progress.ProgressBar(len(emoji.read_names()), "drawing emoji") as bar:

        def on_progress(done: int, total: int) -> None:
            del done, total
            poll()
            bar.update()

        paths = emoji.build_emoji(folder, on_progress=on_progress)
    for split, path in paths.items():
        print(f"{split}: {path}")


def _source(values: flags.FlagValues, split: str = "train"):
    from glide_jax.data import sources

    if not values.source:
        raise UserError("--source is missing, e.g. --source=folder:photos")
    return sources.open_source(values.source, split=split)
