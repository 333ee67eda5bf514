"""The one interface: what is made, saved, loaded and refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.text import sentencepiece_tokenizer, tokenizers


@pytest.fixture(scope="module")
def small_sentencepiece() -> sentencepiece_tokenizer.SentencePieceTokenizer:
    return sentencepiece_tokenizer.SentencePieceTokenizer(
        sentencepiece_tokenizer.train_sentencepiece(["a red cat", "a low cat"], 300)
    )


@pytest.fixture(params=["gpt2", "clip", "sentencepiece"])
def tokenizer(request) -> tokenizers.Tokenizer:
    return request.getfixturevalue("small_" + request.param)


def test_every_kind_is_a_tokenizer(tokenizer):
    assert isinstance(tokenizer, tokenizers.Tokenizer)


def test_a_saved_tokenizer_loads_with_the_same_ids_and_digest(tokenizer, tmp_path):
    folder = tmp_path / "bundle" / "tokenizer"
    tokenizers.save(tokenizer, folder)
    for again in (tokenizers.load(folder), tokenizers.make_tokenizer(str(folder))):
        assert again.kind == tokenizer.kind
        assert again.vocab_size == tokenizer.vocab_size
        assert again.digest() == tokenizer.digest()
        assert again.files() == tokenizer.files()
        assert again.encode("a low cat's") == tokenizer.encode("a low cat's")


def test_ids_are_below_the_vocabulary_size(tokenizer):
    tokens, _ = tokenizer.encode_batch(["cat", "low!", ""], 12)
    assert tokens.min() >= 0
    assert tokens.max() < tokenizer.vocab_size


def test_the_record_names_kind_size_and_digests(tokenizer, tmp_path):
    tokenizers.save(tokenizer, tmp_path)
    record = json.loads((tmp_path / "tokenizer.json").read_text())
    assert record["kind"] == tokenizer.kind
    assert record["vocab_size"] == tokenizer.vocab_size
    assert record["digest"] == tokenizer.digest()
    assert record["sha256"].keys() == tokenizer.files().keys()


def test_the_empty_batch_is_all_padding_and_an_all_false_mask(tokenizer):
    tokens, mask = tokenizers.empty_batch(tokenizer, 2, 5)
    np.testing.assert_array_equal(tokens, np.full((2, 5), tokenizer.pad_id))
    assert tokens.dtype == np.int32
    assert mask.shape == (2, 5)
    assert not mask.any()


def test_the_empty_batch_equals_encoded_empty_captions(small_gpt2, small_sentencepiece):
    for tokenizer in (small_gpt2, small_sentencepiece):
        for made, encoded in zip(
            tokenizers.empty_batch(tokenizer, 2, 5),
            tokenizer.encode_batch(["", ""], 5),
            strict=True,
        ):
            np.testing.assert_array_equal(made, encoded)


def test_a_model_file_makes_a_sentencepiece_tokenizer(small_sentencepiece, tmp_path):
    path = tmp_path / "captions.model"
    path.write_bytes(small_sentencepiece.files()["sentencepiece.model"])
    made = tokenizers.make_tokenizer(str(path))
    assert made.digest() == small_sentencepiece.digest()


def test_an_unknown_name_is_refused_with_the_choices():
    with pytest.raises(errors.UserError, match="give gpt2, clip"):
        tokenizers.make_tokenizer("gpt3")


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(errors.UserError, match=r"tokenizer\.json cannot be read"):
        tokenizers.load(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"kind": "gpt2"}'])
def test_a_broken_record_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(errors.UserError, match=r"tokenizer\.json"):
        tokenizers.load(tmp_path)


def test_an_unknown_kind_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"kind": "t5", "sha256": {}}')
    with pytest.raises(errors.UserError, match="'t5'"):
        tokenizers.load(tmp_path)


def test_a_changed_or_missing_file_is_refused_by_name(small_gpt2, tmp_path):
    tokenizers.save(small_gpt2, tmp_path)
    (tmp_path / "vocab.bpe").write_bytes(b"#version: 0.2\n")
    with pytest.raises(errors.UserError, match=r"vocab\.bpe has sha256"):
        tokenizers.load(tmp_path)
    (tmp_path / "vocab.bpe").unlink()
    with pytest.raises(errors.UserError, match=r"vocab\.bpe cannot be read"):
        tokenizers.load(tmp_path)


@pytest.mark.usefixtures("published_vocabulary")
@pytest.mark.parametrize("kind", ["gpt2", "clip"])
def test_published_tokenizers_are_made_by_name_and_survive_a_folder(kind, tmp_path):
    made = tokenizers.make_tokenizer(kind)
    tokenizers.save(made, tmp_path)
    again = tokenizers.load(tmp_path)
    text = "An oil painting of a Corgi, 日本語 😀"
    assert again.encode(text) == made.encode(text)
    assert again.digest() == made.digest()
