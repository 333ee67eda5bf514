"""A trained SentencePiece model as a tokenizer for captions."""

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
    """Lower-cased pieces and an end id; the empty caption has no ids at all.

    Captions are lower-cased as GLIDE's are. The empty caption stays empty so that it
    equals the one that caption drop and guidance use: all padding, mask all False.
    SentencePiece writes spaces as "▁" (U+2581), so that character decodes as a space.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes):
        """Takes the bytes of a ``.model`` file.

        Raises:
          UserError: not a SentencePiece model, or one without pad and end ids.
        """
        if not model:
            raise UserError("the SentencePiece model file is empty; copy it again")
        self._files = {"sentencepiece.model": model}
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, UnicodeDecodeError) as error:
            # Its messages quote the file, which need not be UTF-8.
            raise UserError(
                f"the file is not a SentencePiece model ({error}); give a .model file "
                f"that SentencePiece's trainer wrote"
            ) from error
        self.vocab_size = self._processor.vocab_size()
        self.pad_id = self._processor.pad_id()
        self.end_id = self._processor.eos_id()
        if self.pad_id < 0 or self.end_id < 0:
            raise UserError(
                f"the SentencePiece model has pad_id={self.pad_id} and "
                f"eos_id={self.end_id}, both must be ids; train it with "
                f"--pad_id=0 --eos_id=1 --unk_id=2 --bos_id=-1"
            )

    def __reduce__(self):
        return type(self), tuple(self._files.values())

    def encode(self, text: str) -> list[int]:
        """Ids of the lower-cased text and the end id; "" gives none."""
        if not text:
            return []
        return [*self._processor.encode(batching.lower_case(text)), self.end_id]

    def encode_batch(
        self, texts: Sequence[str], context: int
    ) -> tuple[array_types.Tokens, array_types.TextMask]:
        """Tokens (B, context): long texts keep the end id last; and their mask."""
        rows = [batching.truncate(self.encode(t), context, closing=1) for t in texts]
        return batching.stack(rows, context, self.pad_id)

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The lower-cased text; padding and the end id are left out."""
        specials = (self.pad_id, self.end_id)
        return self._processor.decode([i for i in map(int, ids) if i not in specials])

    def files(self) -> dict[str, bytes]:
        """The model file's content by name."""
        return dict(self._files)

    def digest(self) -> str:
        """sha256 over kind and files, hexadecimal."""
        return vocabulary.digest(self.kind, self._files)


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
        raise UserError(
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
        raise UserError(
            f"a tokenizer of {vocab_size} pieces cannot be trained: 256 bytes, 3 "
            "specials and every character of the captions are pieces; raise vocab_size "
            + (f"to {least[1]} or more" if least else f"({error})")
        ) from error
    return model.getvalue()


def _lowered_lines(captions: Iterable[str]) -> Iterator[str]:
    """Lower-cased lines, the trainer's unit: of each caption, none of them empty."""
    for caption in captions:
        yield from filter(None, batching.lower_case(caption).splitlines())
