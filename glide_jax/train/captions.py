"""The tokenizer of a run: which one it is, and whether model and captions fit it."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

from glide_jax.config.defaults import Config
from glide_jax.data import schema, sources
from glide_jax.errors import UserError
from glide_jax.parallel import distributed
from glide_jax.text import sentencepiece_model, sentencepiece_training, tokenizers
from glide_jax.train import init_from
from glide_jax.train import workdir as workdirs

# Captions read for a tokenizer of one's own: enough for a few thousand pieces.
TOKENIZER_CAPTIONS = 20_000
# Captions read to see whether they fit the model's context.
MEASURED_CAPTIONS = 200
DEFAULT_TOKENIZER = "gpt2"  # GLIDE's (published)


def stored_tokenizer(
    workdir: pathlib.Path, meta: Mapping[str, Any]
) -> tokenizers.Tokenizer:
    """The workdir's; refused if it is not the one that the checkpoint was made with."""
    tokenizer = workdirs.load_tokenizer(workdir)
    if tokenizer.digest() != meta["tokenizer_digest"]:
        raise UserError(
            f"{workdir / 'tokenizer'} is not the tokenizer that the checkpoints were "
            "trained with; put that one back, or use a new --workdir"
        )
    return tokenizer


def find_tokenizer(
    config: Config, source: schema.Source, origin: init_from.Origin | None
) -> tokenizers.Tokenizer:
    """The origin's, else the one that data.tokenizer names; they may not differ."""
    spec = config.data.tokenizer
    kind, _, pieces = spec.partition(":")
    if origin is not None:
        is_own = kind == "sentencepiece" or (
            spec
            and tokenizers.make_tokenizer(spec).digest() != origin.tokenizer.digest()
        )
        if is_own:
            raise UserError(
                f"data.tokenizer={spec!r} is not the tokenizer that train.init_from="
                f"{config.train.init_from} was trained with; leave it empty"
            )
        return origin.tokenizer
    if kind != "sentencepiece":
        return tokenizers.make_tokenizer(spec or DEFAULT_TOKENIZER)
    if not pieces.isdecimal():
        raise UserError(
            f"data.tokenizer={config.data.tokenizer!r} names no number of pieces; "
            "e.g. sentencepiece:2048"
        )

    def train() -> bytes:
        captions = sources.sample_captions(source, TOKENIZER_CAPTIONS, seed=config.seed)
        return sentencepiece_training.train_sentencepiece(captions, int(pieces))

    return sentencepiece_model.SentencePieceTokenizer(
        distributed.from_first("tokenizer", train)
    )


def check_vocabulary(config: Config, tokenizer: tokenizers.Tokenizer) -> None:
    """Raises UserError where the model has rows for fewer pieces."""
    if tokenizer.vocab_size > config.model.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} pieces, "
            f"model.vocab_size={config.model.vocab_size} has rows for fewer; "
            "raise model.vocab_size or name a smaller data.tokenizer"
        )


def warn_of_cut_captions(
    config: Config, source: schema.Source, tokenizer: tokenizers.Tokenizer
) -> None:
    """A model never learns the words that its context cuts off, and no loss says so."""
    captions = sources.sample_captions(source, MEASURED_CAPTIONS, seed=config.seed)
    context = config.model.text_context
    _, text_mask = tokenizer.encode_batch(captions, context + 1)
    share = text_mask.all(axis=1).mean()
    if share:
        logging.warning(
            "%.0f%% of captions have more than model.text_context=%d tokens and lose "
            "their end; raise it, or train a tokenizer with more pieces",
            100 * share,
            context,
        )
