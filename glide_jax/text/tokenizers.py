"""One interface over the three tokenizers; making, saving and loading them.

A saved tokenizer is a folder of the tokenizer's files and ``tokenizer.json``, which
names the kind and the sha256 of each file; checkpoints and bundles carry it, so that
sampling needs neither the network nor a cache.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Protocol, SupportsInt, runtime_checkable

from glide_jax import array_types
from glide_jax.errors import UserError
from glide_jax.runtime import paths
from glide_jax.text import batching, bpe, sentencepiece_tokenizer, vocabulary

_RECORD = "tokenizer.json"
# Names of published tokenizers, and how many ids each has.
PUBLISHED = {"gpt2": 50257, "clip": 49408}


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back. `pad_id` may also be a real id: only the mask decides."""

    kind: str
    vocab_size: int
    pad_id: int

    def encode(self, text: str) -> list[int]:
        """Ids of `text` with the specials of this kind, neither cut nor padded."""

    def encode_batch(
        self, texts: Sequence[str], context: int
    ) -> tuple[array_types.Tokens, array_types.TextMask]:
        """Tokens int32 (B, context) and mask bool (B, context), True = real token.

        Raises:
          UserError: `context` has no room for one token and the closing special.
        """

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The text of `ids` without padding and specials."""

    def files(self) -> dict[str, bytes]:
        """What `load` needs to make the same tokenizer: file name -> content."""

    def digest(self) -> str:
        """sha256 over kind and files, hexadecimal: equal means the same ids."""


def make_tokenizer(spec: str) -> Tokenizer:
    """The tokenizer that `spec` names.

    Args:
      spec: "gpt2" (GLIDE's), "clip", the path of a SentencePiece ``.model`` file, or
          a folder written by `save`.

    Raises:
      UserError: no such file or folder, or one that does not hold a tokenizer.
    """
    if spec == "gpt2":
        return bpe.published_gpt2()
    if spec == "clip":
        return bpe.published_clip()
    path = paths.local_path(spec, "data.tokenizer")
    if path.is_dir():
        return load(path)
    if path.is_file():
        return sentencepiece_tokenizer.SentencePieceTokenizer(path.read_bytes())
    raise UserError(
        f"tokenizer {spec!r} is neither a name nor an existing path; give gpt2, clip, "
        f"a SentencePiece .model file or a saved tokenizer's folder"
    )


def is_here(spec: str) -> bool:
    """Whether `make_tokenizer` needs no download for `spec`."""
    files = {
        "gpt2": (vocabulary.GPT2_ENCODER, vocabulary.GPT2_MERGES),
        "clip": (vocabulary.CLIP_MERGES,),
    }
    return all(vocabulary.find(file) for file in files.get(spec, ()))


def save(tokenizer: Tokenizer, folder: pathlib.Path) -> None:
    """Writes the tokenizer's files and their record into `folder`, made if absent."""
    folder.mkdir(parents=True, exist_ok=True)
    files = tokenizer.files()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    record = {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "digest": tokenizer.digest(),
        "sha256": {n: hashlib.sha256(c).hexdigest() for n, c in files.items()},
    }
    # Last, so that a folder with a record is a whole one.
    (folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n")


def is_stored(folder: pathlib.Path) -> bool:
    """Whether `folder` holds a tokenizer that `save` wrote."""
    return (folder / _RECORD).is_file()


def load(folder: pathlib.Path) -> Tokenizer:
    """The tokenizer that `save` wrote to `folder`, every file's digest checked.

    Raises:
      UserError: the record or a file is missing, damaged or of an unknown kind.
    """
    record = _read_record(folder / _RECORD)
    makers = {
        "gpt2": lambda files: bpe.Gpt2Tokenizer(
            files["encoder.json"], files["vocab.bpe"]
        ),
        "clip": lambda files: bpe.ClipTokenizer(files["clip_merges.txt"]),
        "sentencepiece": lambda files: sentencepiece_tokenizer.SentencePieceTokenizer(
            files["sentencepiece.model"]
        ),
    }
    if record["kind"] not in makers:
        raise UserError(
            f"{folder / _RECORD} names tokenizer kind {record['kind']!r}, known are "
            f"{', '.join(makers)}; the folder was written by another version"
        )
    files = {
        name: _read_checked(folder / name, sha256)
        for name, sha256 in record["sha256"].items()
    }
    return makers[record["kind"]](files)


def empty_batch(
    tokenizer: Tokenizer, batch: int, context: int
) -> tuple[array_types.Tokens, array_types.TextMask]:
    """The empty caption `batch` times: all padding, mask all False.

    For "gpt2" and "sentencepiece" this equals `encode_batch` of empty strings.
    """
    return batching.stack([[]] * batch, context, tokenizer.pad_id)


def _read_record(path: pathlib.Path) -> dict:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); give a folder written by save, such "
            f"as the tokenizer folder of a workdir or a bundle"
        ) from error
    if not isinstance(record, dict) or not {"kind", "sha256"} <= record.keys():
        raise UserError(
            f"{path} lacks kind or sha256, which a saved tokenizer has; give a folder "
            f"written by save"
        )
    return record


def _read_checked(path: pathlib.Path, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error}) though {_RECORD} lists it; copy the "
            f"whole folder again"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise UserError(
            f"{path} has sha256 {digest} but {_RECORD} says {sha256}; the file is "
            f"damaged: copy the folder again"
        )
    return content
