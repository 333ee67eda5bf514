"""The interface of the tokenizers and their registry; creates, saves and loads them.

A saved tokenizer is a folder with the tokenizer's files and `tokenizer.json`, which
states the kind and the SHA-256 of each file. Checkpoints and bundles contain it, so
sampling needs neither the network nor a cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, SupportsInt, runtime_checkable

from glide_jax import array_types
from glide_jax.errors import UserError
from glide_jax.runtime import files, paths
from glide_jax.text import batching, bpe, sentencepiece_tokenizer, vocabulary

_RECORD = "tokenizer.json"


@runtime_checkable
class Tokenizer(Protocol):
    """Converts text to ids and back.

    Attributes:
      kind: its key in `TOKENIZERS`.
      vocab_size: number of ids.
      pad_id: id of padding; it may also be the id of a real token, so only the mask
        distinguishes padding from text.
    """

    kind: str
    vocab_size: int
    pad_id: int

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text with special tokens, not truncated or padded."""
        ...

    def encode_batch(
        self, texts: Sequence[str], context: int
    ) -> tuple[array_types.Tokens, array_types.TextMask]:
        """Returns tokens int32 (B, context) and mask bool (B, context), True = real.

        Raises:
          UserError: `context` is too short for one token and the end token.
        """
        ...

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """Returns the text of ids, without padding and special tokens."""
        ...

    def files(self) -> dict[str, bytes]:
        """Returns the contents of the tokenizer's files by name."""
        ...

    def digest(self) -> str:
        """Returns the SHA-256 of kind and files, hexadecimal; equal if all ids are."""
        ...


@dataclasses.dataclass(frozen=True)
class TokenizerKind:
    """A kind of tokenizer.

    Attributes:
      from_files: creates one from the contents of `Tokenizer.files`.
      published: creates the published one, whose spec is the kind; None: there is none.
      published_size: number of ids of the published one.
      published_files: the files that it is read from.
    """

    from_files: Callable[[Mapping[str, bytes]], Tokenizer]
    published: Callable[[], Tokenizer] | None = None
    published_size: int = 0
    published_files: tuple[vocabulary.VocabularyFile, ...] = ()


# The only list of the kinds of tokenizers.
TOKENIZERS: dict[str, TokenizerKind] = {
    "gpt2": TokenizerKind(
        lambda files: bpe.Gpt2Tokenizer(files["encoder.json"], files["vocab.bpe"]),
        bpe.published_gpt2,
        published_size=50257,
        published_files=(vocabulary.GPT2_ENCODER, vocabulary.GPT2_MERGES),
    ),
    "clip": TokenizerKind(
        lambda files: bpe.ClipTokenizer(files["clip_merges.txt"]),
        bpe.published_clip,
        published_size=49408,
        published_files=(vocabulary.CLIP_MERGES,),
    ),
    "sentencepiece": TokenizerKind(
        lambda files: sentencepiece_tokenizer.SentencePieceTokenizer(
            files["sentencepiece.model"]
        ),
    ),
}


def published() -> dict[str, TokenizerKind]:
    """The kinds with a published tokenizer, by the name that selects it."""
    return {name: kind for name, kind in TOKENIZERS.items() if kind.published}


def make_tokenizer(spec: str) -> Tokenizer:
    """Creates the tokenizer of a spec.

    Args:
      spec: a published tokenizer ("gpt2" is GLIDE's, or "clip"), the path of a
        SentencePiece `.model` file, or a folder written by `save`.

    Raises:
      UserError: the path does not exist or does not contain a tokenizer.
    """
    kind = TOKENIZERS.get(spec)
    if kind is not None and kind.published is not None:
        return kind.published()
    path = paths.local_path(spec, "data.tokenizer")
    if path.is_dir():
        return load(path)
    if path.is_file():
        return sentencepiece_tokenizer.SentencePieceTokenizer(path.read_bytes())
    raise UserError(
        f"tokenizer {spec!r} is neither a name nor an existing path; give "
        f"{', '.join(published())}, a SentencePiece .model file or the folder of a "
        "saved tokenizer"
    )


def is_cached(spec: str) -> bool:
    """Whether `make_tokenizer` needs no download for a spec."""
    kind = TOKENIZERS.get(spec)
    return kind is None or all(map(vocabulary.find, kind.published_files))


def save(tokenizer: Tokenizer, folder: pathlib.Path) -> None:
    """Writes the files and tokenizer.json to a folder, created if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = tokenizer.files()
    for name, content in contents.items():
        files.write_bytes(folder / name, content)
    record = {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "digest": tokenizer.digest(),
        "sha256": {n: hashlib.sha256(c).hexdigest() for n, c in contents.items()},
    }
    # Written last, so that a folder that contains it is complete.
    files.write_text(folder / _RECORD, json.dumps(record, indent=2) + "\n")


def is_stored(folder: pathlib.Path) -> bool:
    """Whether `folder` holds a tokenizer that `save` wrote."""
    return (folder / _RECORD).is_file()


def load(folder: pathlib.Path) -> Tokenizer:
    """Reads the tokenizer that `save` wrote, and checks the digest of every file.

    Raises:
      UserError: tokenizer.json or a file is missing or damaged, or the kind is unknown.
    """
    record = _read_record(folder / _RECORD)
    if record["kind"] not in TOKENIZERS:
        raise UserError(
            f"{folder / _RECORD} has the unknown kind {record['kind']!r}; use one of "
            f"{', '.join(TOKENIZERS)}, or the version that wrote the folder"
        )
    files = {
        name: _read_checked(folder / name, sha256)
        for name, sha256 in record["sha256"].items()
    }
    return TOKENIZERS[record["kind"]].from_files(files)


def empty_batch(
    tokenizer: Tokenizer, batch: int, context: int
) -> tuple[array_types.Tokens, array_types.TextMask]:
    """Returns a batch of empty captions: all padding, mask all False.

    For "gpt2" and "sentencepiece" this equals `encode_batch` of empty strings.
    """
    return batching.stack([[]] * batch, context, tokenizer.pad_id)


def _read_record(path: pathlib.Path) -> dict:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); give the folder of a saved tokenizer, "
            "such as that of a workdir or a bundle"
        ) from error
    if not isinstance(record, dict) or not {"kind", "sha256"} <= record.keys():
        raise UserError(
            f"{path} lacks kind or sha256; give the folder of a saved tokenizer"
        )
    return record


def _read_checked(path: pathlib.Path, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error}), but {_RECORD} lists it; copy the whole "
            "folder again"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise UserError(
            f"{path} has sha256 {digest}, not {sha256} as in {_RECORD}; copy the "
            "folder again"
        )
    return content
