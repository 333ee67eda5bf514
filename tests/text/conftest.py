"""A small vocabulary of our own, and the published one where the machine has it."""

from __future__ import annotations

import json
import os
import pathlib

import pytest

from glide_jax.text import bpe, vocabulary

# Bytes stand for themselves where printable; "Ġ" is the space, "Ċ" the line end.
_LETTERS = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]


@pytest.fixture
def gpt2_files() -> tuple[bytes, bytes]:
    """encoder.json and vocab.bpe of a vocabulary with six merges."""
    merges = ["c a", "ca t", "Ġ cat", "o w", "l o", "' s"]
    words = [*_LETTERS, *(merge.replace(" ", "") for merge in merges)]
    encoder = {word: index for index, word in enumerate([*words, "<|endoftext|>"])}
    return (
        json.dumps(encoder).encode(),
        "\n".join(["#version: 0.2", *merges, ""]).encode(),
    )


@pytest.fixture
def clip_merges() -> bytes:
    """The merges of a small CLIP vocabulary: "cat" as a word and as a beginning."""
    return b"#version: 0.2\nc a\nca t</w>\nca t\n' s</w>\n"


@pytest.fixture
def small_gpt2(gpt2_files) -> bpe.Gpt2Tokenizer:
    return bpe.Gpt2Tokenizer(*gpt2_files)


@pytest.fixture
def small_clip(clip_merges) -> bpe.ClipTokenizer:
    return bpe.ClipTokenizer(clip_merges)


@pytest.fixture
def published_vocabulary() -> None:
    """Skips where $GLIDE_JAX_VOCAB lacks the published files: no test downloads."""
    folder = pathlib.Path(os.environ.get(vocabulary.FOLDER_VARIABLE, "."))
    for file in (
        vocabulary.GPT2_ENCODER,
        vocabulary.GPT2_MERGES,
        vocabulary.CLIP_MERGES,
    ):
        if not any((folder / (file.name + end)).is_file() for end in ("", ".gz")):
            pytest.skip(f"{file.name} is not in ${vocabulary.FOLDER_VARIABLE}")
