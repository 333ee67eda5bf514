"""Training a SentencePiece BPE model on captions, the same bytes every time."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable, Iterator

import sentencepiece

from glide_jax import errors
from glide_jax.text import cleaning


def train_sentencepiece(captions: Iterable[str], vocab_size: int) -> bytes:
    """A SentencePiece model as the bytes of its ``.model`` file.

    Deterministic: the same captions in the same order give the same bytes. Byte pieces
    cover every character never seen, and no text is normalised but by lower-casing,
    which the tokenizer repeats when encoding.

    Args:
        captions: training texts; the caller limits how many. Empty ones do not count,
            and SentencePiece skips lines over 4,192 bytes.
        vocab_size: the most pieces to keep. The model has fewer if the captions do not
            support so many. 256 byte pieces, 3 specials and the characters seen come
            out of it.

    Raises:
        UserError: no captions, or `vocab_size` too small for the fixed pieces.
    """
    sentences = _lowered_lines(captions)
    first = next(sentences, None)
    if first is None:
        raise errors.UserError(
            "there are no captions to train a tokenizer on; give at least one that "
            "is not empty"
        )
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain([first], sentences),
            model_writer=model,
            # Not unigram: on a small corpus of few words that keeps single letters, and
            # captions grow past the context.
            model_type="bpe",
            vocab_size=vocab_size,
            # A small corpus supports fewer pieces than asked for: not an error.
            hard_vocab_limit=False,
            byte_fallback=True,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            # The thread count is written into the model: fixed, so bytes are too.
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        # "Vocabulary size is smaller than required_chars. 40 vs 271. ..."
        least = re.search(r"required_chars\. \d+ vs (\d+)", str(error))
        raise errors.UserError(
            f"a tokenizer of {vocab_size} pieces cannot be trained: 256 bytes, 3 "
            "specials and every character of the captions are pieces; raise vocab_size "
            + (f"to {least[1]} or more" if least else f"({error})")
        ) from error
    return model.getvalue()


def _lowered_lines(captions: Iterable[str]) -> Iterator[str]:
    """Lower-cased lines, the trainer's unit: of each caption, none of them empty."""
    for caption in captions:
        yield from filter(None, cleaning.lower_case(caption).splitlines())
