"""Prepare data: `build` writes records, `tokenizer` trains one, `emoji` draws a set.

    glide data build --source=folder:photos --name=photos --output=records
    glide data tokenizer --source="webdataset:runs/emoji/*-train-*.tar" \\
        --vocab_size=2048 --output=runs/emoji/tokenizer
    glide data emoji --output=runs/emoji
"""

from __future__ import annotations

import pathlib

from absl import flags

from glide_jax.errors import UserError

ACTIONS = ("build", "tokenizer", "emoji")


def define_flags(values: flags.FlagValues) -> None:
    """--source, --output, --name, --vocab_size, --max_captions, --max_bad_frac."""
    flags.DEFINE_string(
        "source",
        None,
        "shapes:quickstart, shapes:full, webdataset:GLOB, folder:DIR or tfds:NAME",
        flag_values=values,
    )
    flags.DEFINE_string("output", None, "folder to write to", flag_values=values)
    flags.DEFINE_string(
        "name", "captioned_images", "of the data set, for build", flag_values=values
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
    output = pathlib.Path(values.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output={output} cannot be written ({error.strerror}); name a folder "
            "that you may write"
        ) from error
    {"build": _build, "tokenizer": _train_tokenizer, "emoji": _draw_emoji}[
        arguments[0]
    ](values, output)
    return 0


def _build(values: flags.FlagValues, output: pathlib.Path) -> None:
    from glide_jax.data import builders

    folder = builders.build_array_records(
        _source(values), output, values.name, max_bad_frac=values.max_bad_frac
    )
    print(
        f"records are in {folder}; train on them with data.sources=('tfds:{folder}',)"
    )


def _train_tokenizer(values: flags.FlagValues, output: pathlib.Path) -> None:
    from glide_jax.data import sources
    from glide_jax.text import sentencepiece_model, sentencepiece_training, tokenizers

    captions = sources.sample_captions(_source(values), values.max_captions)
    model = sentencepiece_training.train_sentencepiece(captions, values.vocab_size)
    tokenizer = sentencepiece_model.SentencePieceTokenizer(model)
    tokenizers.save(tokenizer, output)
    print(
        f"{tokenizer.vocab_size} pieces from {len(captions)} captions are in {output}; "
        f"use them with data.tokenizer={output}"
    )


def _draw_emoji(values: flags.FlagValues, output: pathlib.Path) -> None:
    from glide_jax import progress
    from glide_jax.data import emoji

    with progress.ProgressBar(len(emoji.read_names()), "drawing emoji") as bar:
        paths = emoji.build_emoji(output, on_progress=lambda *_: bar.update())
    for split, path in paths.items():
        print(f"{split}: {path}")


def _source(values: flags.FlagValues):
    from glide_jax.data import sources

    if not values.source:
        raise UserError("--source is missing, e.g. --source=folder:photos")
    return sources.open_source(values.source)
