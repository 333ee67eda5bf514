"""A trained SentencePiece model as a tokenizer for captions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import SupportsInt

import sentencepiece

from glide_jax import errors, shapes
from glide_jax.text import batching, cleaning, vocabulary


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
            raise errors.UserError(
                "the SentencePiece model file is empty; copy it again"
            )
        self._files = {"sentencepiece.model": model}
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, UnicodeDecodeError) as error:
            # Its messages quote the file, which need not be UTF-8.
            raise errors.UserError(
                f"the file is not a SentencePiece model ({error}); give a .model file "
                f"that SentencePiece's trainer wrote"
            ) from error
        self.vocab_size = self._processor.vocab_size()
        self.pad_id = self._processor.pad_id()
        self.end_id = self._processor.eos_id()
        if self.pad_id < 0 or self.end_id < 0:
            raise errors.UserError(
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
        return [*self._processor.encode(cleaning.lower_case(text)), self.end_id]

    def encode_batch(
        self, texts: Sequence[str], context: int
    ) -> tuple[shapes.Tokens, shapes.TextMask]:
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
