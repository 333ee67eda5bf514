"""The tokenizer of a run: its choice, and checks of the model and captions."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from glide_jax.config.defaults import Config
from glide_jax.data import schema, sources
from glide_jax.errors import UserError
from glide_jax.parallel import distributed
from glide_jax.text import sentencepiece_tokenizer, tokenizers
from glide_jax.train import init_from, run_folder

# Captions read to train a tokenizer: enough for a few thousand pieces.
TOKENIZER_CAPTIONS = 20_000
# Captions read to see whether they fit the model's context.
MEASURED_CAPTIONS = 200
DEFAULT_TOKENIZER = "gpt2"  # GLIDE's (published)


def stored_tokenizer(
    workdir: pathlib.Path, meta: Mapping[str, Any]
) -> tokenizers.Tokenizer:
    """The workdir's tokenizer; refused if the checkpoint was made with another."""
    tokenizer = run_folder.load_tokenizer(workdir)
    if tokenizer.digest() != meta["tokenizer_digest"]:
        raise UserError(
            f"{workdir / 'tokenizer'} is not the tokenizer that the checkpoints were "
            "trained with; restore that one, or use a new --workdir"
        )
    return tokenizer


class NoTokens:
    """Replaces a tokenizer that is not available: only images are read."""

    def encode_batch(
        self, texts: Sequence[str], context: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Empty captions: tokens int32 (B, context), text_mask bool (B, context)."""
        shape = (len(texts), context)
        return np.zeros(shape, np.int32), np.zeros(shape, bool)


def check_name(config: Config) -> None:
    """Raises UserError for an invalid data.tokenizer; reads no file."""
    kind, _, pieces = config.data.tokenizer.partition(":")
    if kind == "sentencepiece" and not pieces.isdecimal():
        raise UserError(
            f"data.tokenizer={config.data.tokenizer!r} has no number of pieces; write "
            "e.g. sentencepiece:2048"
        )
    spec = config.data.tokenizer or DEFAULT_TOKENIZER
    # The tokenizer of an origin may be a different one.
    published = tokenizers.published()
    if spec in published and not _origin(config):
        _check_size(config, published[spec].published_size)


def find_tokenizer(
    config: Config,
    source: schema.Source,
    origin: init_from.Origin | None,
    *,
    may_download: bool = True,
) -> tokenizers.Tokenizer | None:
    """The origin's tokenizer, else that of data.tokenizer; they must not differ.

    Returns None and logs a line if it is a published one whose files are not cached and
    `may_download` is not set.
    """
    spec = config.data.tokenizer
    kind, _, pieces = spec.partition(":")
    if origin is not None:
        is_own = kind == "sentencepiece" or (
            spec and not _is_tokenizer_of(origin, spec, may_download)
        )
        if is_own:
            raise UserError(
                f"data.tokenizer={spec!r} is not the tokenizer that {_origin(config)} "
                "was trained with; leave it empty"
            )
        return origin.tokenizer
    if kind != "sentencepiece":
        if not spec:
            logging.info(
                "data.tokenizer is empty; using the default, %s", DEFAULT_TOKENIZER
            )
        spec = spec or DEFAULT_TOKENIZER
        if not may_download and not tokenizers.is_cached(spec):
            logging.warning(
                "data.tokenizer=%s is not in the cache and will be downloaded at the "
                "start; the lengths of captions are not checked",
                spec,
            )
            return None
        return tokenizers.make_tokenizer(spec)

    def train() -> bytes:
        captions = sources.sample_captions(source, TOKENIZER_CAPTIONS, seed=config.seed)
        return sentencepiece_tokenizer.train_sentencepiece(captions, int(pieces))

    return sentencepiece_tokenizer.SentencePieceTokenizer(
        distributed.from_first("tokenizer", train)
    )


def _is_tokenizer_of(origin: init_from.Origin, spec: str, may_download: bool) -> bool:
    """Whether `spec` is the origin's tokenizer; compares kinds if it is not cached."""
    if not may_download and not tokenizers.is_cached(spec):
        return origin.tokenizer.kind == spec
    return tokenizers.make_tokenizer(spec).digest() == origin.tokenizer.digest()


def check_vocabulary(config: Config, tokenizer: tokenizers.Tokenizer) -> None:
    """Raises UserError if the model's vocab_size is below the tokenizer's."""
    _check_size(config, tokenizer.vocab_size)


def _check_size(config: Config, size: int) -> None:
    if size > config.model.vocab_size:
        is_named = config.data.tokenizer or _origin(config)
        tokenizer = (
            "the tokenizer" if is_named else f"{DEFAULT_TOKENIZER} (the default)"
        )
        raise UserError(
            f"{tokenizer} has {size} pieces, more than "
            f"model.vocab_size={config.model.vocab_size}; raise model.vocab_size or "
            "name a smaller data.tokenizer"
        )


def _origin(config: Config) -> str:
    """The workdir or bundle whose tokenizer the run takes over; "" if none."""
    return config.train.init_from or config.train.teacher


def warn_of_cut_captions(
    config: Config, source: schema.Source, tokenizer: tokenizers.Tokenizer
) -> None:
    """Warns of truncated captions: their last words are never learned."""
    captions = sources.sample_captions(source, MEASURED_CAPTIONS, seed=config.seed)
    context = config.model.text_context
    _, text_mask = tokenizer.encode_batch(captions, context + 1)
    share = text_mask.all(axis=1).mean()
    if share:
        logging.warning(
            "%.0f%% of captions have more than model.text_context=%d tokens and are "
            "truncated; raise it, or train a tokenizer with more pieces",
            100 * share,
            context,
        )
