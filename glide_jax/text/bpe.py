"""The released byte-pair encodings: GPT-2's for GLIDE's text encoder, and CLIP's.

Both write text as UTF-8 bytes in a printable alphabet and merge neighbouring symbols
in the order of a learned list (Radford et al. 2019, section 2.2). They differ in
cleaning, in how words are split, and in CLIP's end-of-word suffix. The ids equal those
of openai/glide-text2im's two tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import SupportsInt

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from glide_jax import array_types
from glide_jax.errors import UserError
from glide_jax.text import batching, vocabulary

_END_OF_TEXT = "<|endoftext|>"
_START_OF_TEXT = "<|startoftext|>"
_WORD_END = "</w>"
# openai/CLIP simple_tokenizer: the specials, English contractions, runs of letters,
# single digits, runs of anything else that is not space.
_CLIP_PATTERN = (
    r"<\|startoftext\|>|<\|endoftext\|>|(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
# openai/CLIP reads merges [1 : 49152 - 256 - 2 + 1] of a longer list.
_CLIP_NUM_MERGES = 49152 - 256 - 2


class Gpt2Tokenizer:
    """GPT-2's BPE as GLIDE uses it: lower-cased text, no start or end token.

    Padding is the end-of-text id (50256 of 50,257); only the mask marks it as padding.
    """

    kind = "gpt2"

    def __init__(self, encoder: bytes, merges: bytes):
        """Reads the contents of `encoder.json` (token -> id) and `vocab.bpe`."""
        self._files = {"encoder.json": encoder, "vocab.bpe": merges}
        ids = _parse_ids(encoder)
        if _END_OF_TEXT not in ids:
            raise UserError(
                f"encoder.json has no {_END_OF_TEXT}, GLIDE's padding; use the "
                "published encoder.json of GPT-2"
            )
        self.vocab_size = len(ids)
        self.pad_id = ids[_END_OF_TEXT]
        self._bpe = tokenizers.Tokenizer(_make_bpe(ids, _parse_merges(merges)))
        self._bpe.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=False, use_regex=True
        )
        self._bpe.decoder = decoders.ByteLevel()

    def __reduce__(self):
        return type(self), tuple(self._files.values())

    def encode(self, text: str) -> list[int]:
        """Returns the ids of the lower-cased text; none for ""."""
        return self._bpe.encode(batching.lower_case(text)).ids

    def encode_batch(
        self, texts: Sequence[str], context: int
    ) -> tuple[array_types.Tokens, array_types.TextMask]:
        """Returns tokens (B, context), truncated or padded on the right, and mask."""
        rows = [batching.truncate(self.encode(t), context, closing=0) for t in texts]
        return batching.stack(rows, context, self.pad_id)

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """Returns the lower-cased text without padding."""
        return self._bpe.decode([i for i in map(int, ids) if i != self.pad_id])

    def files(self) -> dict[str, bytes]:
        """Returns the contents of the tokenizer's files by name."""
        return dict(self._files)

    def digest(self) -> str:
        """Returns the SHA-256 of kind and files, hexadecimal."""
        return vocabulary.digest(self.kind, self._files)


class ClipTokenizer:
    """CLIP's BPE: cleaned, lower-cased text between a start and an end token.

    The text `<|startoftext|>` or `<|endoftext|>` encodes to that id, as in openai/CLIP.
    Padding is 0, which is also the id of a "!" inside a word; only the mask
    distinguishes them.
    """

    kind = "clip"
    pad_id = 0

    def __init__(self, merges: bytes):
        """Reads a header line, then one merge per line; all of them are used."""
        self._files = {"clip_merges.txt": merges}
        pairs = _parse_merges(merges)
        alphabet = _byte_alphabet()
        words = [*alphabet, *(symbol + _WORD_END for symbol in alphabet)]
        words += [first + second for first, second in pairs]
        words += [_START_OF_TEXT, _END_OF_TEXT]
        self.vocab_size = len(words)
        self.start_id, self.end_id = self.vocab_size - 2, self.vocab_size - 1
        self._words = words
        ids = {word: index for index, word in enumerate(words)}
        self._bpe = _make_bpe(ids, pairs, end_of_word_suffix=_WORD_END)
        self._split = pre_tokenizers.Sequence(
            [
                # Inverted: text that the pattern does not match is removed.
                pre_tokenizers.Split(
                    tokenizers.Regex(_CLIP_PATTERN), behavior="removed", invert=True
                ),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        self._byte_decoder = decoders.ByteLevel()

    def __reduce__(self):
        return type(self), tuple(self._files.values())

    def encode(self, text: str) -> list[int]:
        """Returns start id, ids of the cleaned text, end id."""
        ids = [self.start_id]
        for piece, _ in self._split.pre_tokenize_str(batching.clip_clean(text)):
            # As in openai/CLIP, special tokens are recognised after the split, which
            # may break one: "!<|" is one piece.
            if piece == _START_OF_TEXT:
                ids.append(self.start_id)
            elif piece == _END_OF_TEXT:
                ids.append(self.end_id)
            else:
                ids.extend(token.id for token in self._bpe.tokenize(piece))
        return [*ids, self.end_id]

    def encode_batch(
        self, texts: Sequence[str], context: int
    ) -> tuple[array_types.Tokens, array_types.TextMask]:
        """Returns tokens (B, context), the end id kept last, and mask."""
        rows = [batching.truncate(self.encode(t), context, closing=1) for t in texts]
        return batching.stack(rows, context, self.pad_id)

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """Returns the cleaned text, words separated by spaces, up to the end id."""
        words = []
        for token in map(int, ids):
            if token == self.end_id:
                break
            if token != self.start_id:
                words.append(self._words[token])
        # "Ġ" represents a space in the byte alphabet.
        spaced = [
            word.removesuffix(_WORD_END) + "Ġ" if word.endswith(_WORD_END) else word
            for word in words
        ]
        return self._byte_decoder.decode(spaced).rstrip(" ")

    def files(self) -> dict[str, bytes]:
        """Returns the contents of the tokenizer's files by name."""
        return dict(self._files)

    def digest(self) -> str:
        """Returns the SHA-256 of kind and files, hexadecimal."""
        return vocabulary.digest(self.kind, self._files)


def published_gpt2() -> Gpt2Tokenizer:
    """Creates GPT-2's tokenizer of 50,257 ids; downloads its files if needed."""
    return Gpt2Tokenizer(
        vocabulary.read(vocabulary.GPT2_ENCODER),
        vocabulary.read(vocabulary.GPT2_MERGES),
    )


def published_clip() -> ClipTokenizer:
    """Creates CLIP's tokenizer of 49,408 ids; downloads its file if needed."""
    lines = vocabulary.read(vocabulary.CLIP_MERGES).split(b"\n")
    # CLIP uses a fifth of the published list; bundles contain that part.
    return ClipTokenizer(b"\n".join(lines[: 1 + _CLIP_NUM_MERGES]) + b"\n")


def _make_bpe(
    ids: dict[str, int], pairs: list[tuple[str, str]], **options: str
) -> models.BPE:
    """Returns the merge model.

    Raises:
      UserError: a merge contains a token without an id.
    """
    tokens = (token for a, b in pairs for token in (a, b, a + b))
    missing = next((token for token in tokens if token not in ids), None)
    if missing is not None:
        raise UserError(
            f"the merges contain {missing!r}, which the vocabulary lacks; use the "
            "vocabulary and merges files of one tokenizer"
        )
    return models.BPE(vocab=ids, merges=pairs, **options)


def _parse_ids(encoder: bytes) -> dict[str, int]:
    """Parses encoder.json, token -> id; ids are consecutive from 0."""
    try:
        ids = json.loads(encoder)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"encoder.json is not JSON in UTF-8 ({error}); use the published file"
        ) from error
    is_consecutive = (
        isinstance(ids, dict)
        and all(type(index) is int for index in ids.values())
        and sorted(ids.values()) == list(range(len(ids)))
    )
    if not is_consecutive:
        raise UserError(
            "encoder.json does not map its tokens to the ids 0, 1, 2, ..., each once; "
            "use the published file"
        )
    return ids


def _parse_merges(merges: bytes) -> list[tuple[str, str]]:
    """Parses the pairs in merge order; the first line is a header."""
    try:
        lines = merges.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"the merges file is not UTF-8 ({error}); use the published file"
        ) from error
    pairs = []
    for number, line in enumerate(lines[1:], start=2):
        # Only U+0020 separates the two; other Unicode spaces are alphabet symbols.
        symbols = line.split(" ")
        if len(symbols) == 2:
            pairs.append((symbols[0], symbols[1]))
        elif line:
            raise UserError(
                f"line {number} of the merges file is {line!r}, not two symbols and a "
                "space; use the published file"
            )
    return pairs


def _byte_alphabet() -> list[str]:
    """Returns the 256 printable characters that represent bytes, in CLIP's id order.

    Printable Latin-1 characters represent themselves and come first; the other bytes
    follow in order, as the code points from 256 on (GPT-2's alphabet).
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(code) for code in printable] + [
        chr(256 + index) for index in range(256 - len(printable))
    ]
