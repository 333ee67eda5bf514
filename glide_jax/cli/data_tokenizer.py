"""Train a SentencePiece tokenizer on the captions of a source.

    glide data tokenizer --source='webdataset:runs/icons/train?captions=random' \\
        --vocab_size=4096 --output=runs/icons_tokenizer

SIGTERM or Ctrl-C stops it with exit code 42, and the same command starts over.
"""

from __future__ import annotations

from absl import flags

from glide_jax.cli import data_flags, define, output_folders, stopping
from glide_jax.errors import UserError
from glide_jax.runtime import wording


def define_flags(values: flags.FlagValues) -> None:
    """Defines the source, the output and the number of pieces."""
    add = define.Define(values)
    data_flags.define_source(add)
    add.path("output", "output folder")
    add.whole("vocab_size", "largest number of pieces", 2048, least=300)
    add.whole("max_captions", "largest number of training captions", 200_000, least=1)


def run(values: flags.FlagValues, arguments: list[str]) -> int:
    """Trains and writes the tokenizer."""
    data_flags.check_arguments(values, arguments)
    from glide_jax.data import sources
    from glide_jax.text import sentencepiece_tokenizer, tokenizers

    with (
        stopping.on_signal() as poll,
        output_folders.made_folder(values.output) as folder,
    ):
        if tokenizers.is_stored(folder):
            raise UserError(
                f"--output={values.output} holds a tokenizer already, which a run may "
                "use; name another folder"
            )
        source = data_flags.open_source(values.source)
        captions = sources.sample_captions(
            source, values.max_captions, on_progress=poll
        )
        # SentencePiece blocks signals for some seconds.
        model = sentencepiece_tokenizer.train_sentencepiece(captions, values.vocab_size)
        poll()
        tokenizer = sentencepiece_tokenizer.SentencePieceTokenizer(model)
        tokenizers.save(tokenizer, folder)
    fewer = tokenizer.vocab_size < values.vocab_size
    print(
        f"{tokenizer.vocab_size} pieces"
        + (f" (the captions hold no {values.vocab_size})" if fewer else "")
        + f" from {wording.counted(len(captions), 'caption')} are in {folder}; "
        f"use them with --config.data.tokenizer={folder}"
    )
    return 0
