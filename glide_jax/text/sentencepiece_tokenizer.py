"""Tokenizes captions with a SentencePiece model, and trains one."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import SupportsInt

import sentencepiece

from glide_jax import array_types
from glide_jax.errors import UserError
from glide_jax.text import batching, vocabulary


class SentencePieceTokenizer:
    """Lower-cased pieces and an end id; the empty caption has no ids.

    Captions are lower-cased as in GLIDE. The empty caption equals that of caption drop
    and classifier-free guidance: all padding, mask all False. SentencePiece represents
    spaces by "▁" (U+2581), so that character decodes as a space.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes):
        """Reads the bytes of a `.model` file.

        Raises:
          UserError: not a SentencePiece model, or one without pad and end ids.
        """
        if not model:
            raise UserError("the SentencePiece model file is empty; copy it again")
        self._files = {"sentencepiece.model": model}
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, UnicodeDecodeError) as error:
            # Its messages quote the file, which may not be UTF-8.
            raise UserError(
                f"the file is not a SentencePiece model ({error}); give a .model file "
                "of SentencePiece's trainer"
            ) from error
        self.vocab_size = self._processor.vocab_size()
        self.pad_id = self._processor.pad_id()
        self.end_id = self._processor.eos_id()
        if self.pad_id < 0 or self.end_id < 0:
            raise UserError(
                f"the SentencePiece model has pad_id={self.pad_id} and "
                f"eos_id={self.end_id}, but both must be ids; train it with "
                f"--pad_id=0 --eos_id=1 --unk_id=2 --bos_id=-1"
            )

    def __reduce__(self):
        return type(self), tuple(self._files.values())

    def encode(self, text: str) -> list[int]:
        """Returns the ids of the lower-cased text and the end id; none for ""."""
        if not text:
            return []
        return [*self._processor.encode(batching.lower_case(text)), self.end_id]

    def encode_batch(
        self, texts: Sequence[str], context: int
    ) -> tuple[array_types.Tokens, array_types.TextMask]:
        """Returns tokens (B, context), the end id kept last, and mask."""
        rows = [batching.truncate(self.encode(t), context, closing=1) for t in texts]
        return batching.stack(rows, context, self.pad_id)

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """Returns the lower-cased text without padding and end id."""
        specials = (self.pad_id, self.end_id)
        return self._processor.decode([i for i in map(int, ids) if i not in specials])

    def files(self) -> dict[str, bytes]:
        """Returns the content of the model file by name."""
        return dict(self._files)

    def digest(self) -> str:
        """Returns the SHA-256 of kind and files, hexadecimal."""
        return vocabulary.digest(self.kind, self._files)


def train_sentencepiece(captions: Iterable[str], vocab_size: int) -> bytes:
    """Trains a SentencePiece model and returns the bytes of its `.model` file.

    Deterministic: the same captions in the same order give the same bytes. Byte pieces
    cover unseen characters. Lower-casing, which the tokenizer repeats when it encodes,
    is the only normalisation.

    Args:
      captions: training texts; empty ones are ignored, and SentencePiece skips lines
        over 4,192 bytes.
      vocab_size: the largest number of pieces, among them 256 bytes, 3 special tokens
        and the characters of the captions. Fewer if the captions do not support it.

    Raises:
      UserError: no captions, or `vocab_size` too small for the fixed pieces.
    """
    sentences = _lowered_lines(captions)
    first = next(sentences, None)
    if first is None:
        raise UserError(
            "there are no captions to train a tokenizer on; give at least one that is "
            "not empty"
        )
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain([first], sentences),
            model_writer=model,
            # On a corpus of few words, unigram keeps single letters, and captions
            # exceed the context.
            model_type="bpe",
            vocab_size=vocab_size,
            # A small corpus may support fewer pieces; that is not an error.
            hard_vocab_limit=False,
            byte_fallback=True,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            # The model contains the thread count, so a fixed one keeps the bytes equal.
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        # "Vocabulary size is smaller than required_chars. 40 vs 271. ..."
        least = re.search(r"required_chars\. \d+ vs (\d+)", str(error))
        raise UserError(
            f"a tokenizer of {vocab_size} pieces cannot be trained: 256 bytes, 3 "
            "specials and every character of the captions are pieces; raise vocab_size "
            + (f"to {least[1]} or more" if least else f"({error})")
        ) from error
    return model.getvalue()


def _lowered_lines(captions: Iterable[str]) -> Iterator[str]:
    """Yields the lower-cased lines of each caption that are not empty."""
    for caption in captions:
        yield from filter(None, batching.lower_case(caption).splitlines())
