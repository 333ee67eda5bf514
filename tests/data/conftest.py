"""A real tokenizer for the embedded captions, and writers of small data sets."""

from __future__ import annotations

import io
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image

from glide_jax.data import retrying_reads, sources
from glide_jax.text import sentencepiece_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    """SentencePiece trained on captions of the quickstart world."""
    world = sources.open_source("shapes:quickstart")
    captions = sources.sample_captions(world, 200)
    model = sentencepiece_tokenizer.train_sentencepiece(captions, 300)
    return sentencepiece_tokenizer.SentencePieceTokenizer(model)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test touches the user's cache."""
    monkeypatch.setenv("GLIDE_JAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def own_retry_policy(monkeypatch):
    """Gives each test its own retry policy, so that no failed wait affects another."""
    monkeypatch.setattr(retrying_reads, "_retries", retrying_reads.RetryPolicy())


def encoded_picture(shade: int, format_: str = "PNG") -> bytes:
    """A flat gray 20 x 16 picture as a file."""
    stream = io.BytesIO()
    pixels = np.full((16, 20, 3), shade, np.uint8)
    Image.fromarray(pixels).save(stream, format_)
    return stream.getvalue()


@pytest.fixture
def write_tar():
    """write_tar(path, {"name.ext": bytes}) -> path."""

    def write(path: pathlib.Path, members: dict[str, bytes]) -> pathlib.Path:
        with tarfile.open(path, "w") as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def pictures():
    """pictures(n) -> {"000.png": ..., "000.txt": ...} of n captioned pictures."""

    def make(count: int) -> dict[str, bytes]:
        members = {}
        for i in range(count):
            members[f"{i:03d}.png"] = encoded_picture(10 * i)
            members[f"{i:03d}.txt"] = f"a picture of shade {i}\n".encode()
        return members

    return make
