"""SentencePiece: training is deterministic, text survives, the end id closes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.text import sentencepiece_tokenizer

CAPTIONS = [
    f"a {size} {colour} {shape}"
    for size in ("small", "large", "tiny")
    for colour in ("red", "green", "blue", "Yellow")
    for shape in ("circle", "square", "triangle", "star 😀")
]


@pytest.fixture(scope="module")
def model() -> bytes:
    return sentencepiece_tokenizer.train_sentencepiece(CAPTIONS, 340)


@pytest.fixture(scope="module")
def tokenizer(model) -> sentencepiece_tokenizer.SentencePieceTokenizer:
    return sentencepiece_tokenizer.SentencePieceTokenizer(model)


def test_training_twice_gives_the_same_bytes(model):
    again = sentencepiece_tokenizer.train_sentencepiece(iter(CAPTIONS), 340)
    assert again == model


def test_training_reads_captions_in_lower_case(model):
    upper = [caption.upper() for caption in CAPTIONS]
    assert sentencepiece_tokenizer.train_sentencepiece(upper, 340) == model


def test_training_takes_a_caption_of_several_lines_as_lines(model):
    joined = ["\n".join(CAPTIONS[:20]), "", "\r\n".join(CAPTIONS[20:])]
    assert sentencepiece_tokenizer.train_sentencepiece(joined, 340) == model


def test_few_captions_give_fewer_pieces_than_asked_for():
    few = sentencepiece_tokenizer.train_sentencepiece(["a red cat"], 8000)
    size = sentencepiece_tokenizer.SentencePieceTokenizer(few).vocab_size
    # 3 specials and 256 bytes are always there.
    assert 259 < size < 300


def test_words_of_a_small_vocabulary_become_whole_pieces(tokenizer):
    ids = tokenizer.encode("a small yellow triangle")
    assert len(ids) == 4 + 1  # the end


def test_training_on_nothing_is_refused():
    with pytest.raises(errors.UserError, match="no captions"):
        sentencepiece_tokenizer.train_sentencepiece(["", "\n"], 340)


def test_a_vocabulary_below_the_fixed_pieces_is_refused():
    with pytest.raises(errors.UserError, match="raise vocab_size") as caught:
        sentencepiece_tokenizer.train_sentencepiece(CAPTIONS, 100)
    assert "\n" not in str(caught.value)


def test_specials_are_pad_0_and_end_1(tokenizer):
    assert (tokenizer.pad_id, tokenizer.end_id) == (0, 1)
    assert 259 < tokenizer.vocab_size <= 340


@pytest.mark.parametrize(
    "text",
    [
        "a small red circle",
        "two  spaces,   three",
        " leading and trailing ",
        "\ttabs\tand\nlines\r\n",
        "emoji 😀 👩‍👩‍👧 👍🏽 🇫🇷",
        "日本語 العربية हिन्दी naïve",
        "e\u0301 is not é",
        "\x00nul\x07bell",
        "   ",
    ],
)
def test_text_survives_encoding_and_decoding(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids[-1] == tokenizer.end_id
    # Byte pieces cover what training never saw: nothing becomes "unknown".
    assert 2 not in ids


def test_upper_case_encodes_as_lower_case(tokenizer):
    assert tokenizer.encode("A RED Star") == tokenizer.encode("a red star")


def test_the_empty_caption_has_no_ids_and_an_all_false_mask(tokenizer):
    assert tokenizer.encode("") == []
    tokens, mask = tokenizer.encode_batch([""], 4)
    np.testing.assert_array_equal(tokens, np.zeros((1, 4), np.int32))
    assert not mask.any()


def test_long_text_is_cut_before_its_end_token(tokenizer):
    text = "a small red circle"
    ids = tokenizer.encode(text)
    assert len(ids) > 4
    tokens, mask = tokenizer.encode_batch([text], 4)
    np.testing.assert_array_equal(tokens, [[*ids[:3], tokenizer.end_id]])
    assert mask.all()


def test_short_text_is_padded_and_decodes_from_the_padded_row(tokenizer):
    text = "a small red circle"
    tokens, mask = tokenizer.encode_batch([text], 24)
    assert mask.sum() == len(tokenizer.encode(text))
    assert (tokens[~mask] == tokenizer.pad_id).all()
    assert tokenizer.decode(tokens[0]) == text


def test_a_pickled_tokenizer_encodes_equally(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode("a blue star") == tokenizer.encode("a blue star")


@pytest.mark.parametrize("content", [b"", b"not a model" * 9])
def test_a_file_that_is_no_model_is_refused(content):
    with pytest.raises(errors.UserError, match="SentencePiece model"):
        sentencepiece_tokenizer.SentencePieceTokenizer(content)
