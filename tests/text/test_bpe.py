"""GPT-2's and CLIP's encodings, on a small vocabulary and against released ids."""

from __future__ import annotations

import json
import pathlib
import pickle

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.text import bpe

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "tokenizers.json"


def _spell(tokenizer: bpe.Gpt2Tokenizer, gpt2_files, text: str) -> list[str]:
    words = {index: word for word, index in json.loads(gpt2_files[0]).items()}
    return [words[index] for index in tokenizer.encode(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("cat", ["cat"]),
        ("cat cat", ["cat", "Ġcat"]),
        ("CaT", ["cat"]),
        ("catty", ["cat", "t", "y"]),
        ("cat's", ["cat", "'s"]),
        # The contraction is split off first, so "t" cannot join "ca".
        ("ca't", ["ca", "'", "t"]),
        ("  cat", ["Ġ", "Ġcat"]),
        ("a\ncat", ["a", "Ċ", "cat"]),
        # "o w" stands before "l o" in the list: order decides, not position.
        ("low", ["l", "ow"]),
        ("lo w", ["lo", "Ġ", "w"]),
    ],
)
def test_gpt2_merges_in_list_order_within_split_words(
    small_gpt2, gpt2_files, text, words
):
    assert _spell(small_gpt2, gpt2_files, text) == words


def test_gpt2_end_of_text_in_a_caption_is_plain_text(small_gpt2):
    assert small_gpt2.pad_id not in small_gpt2.encode("<|endoftext|>")
    assert small_gpt2.decode(small_gpt2.encode("<|endoftext|>")) == "<|endoftext|>"


def test_gpt2_batch_is_cut_and_padded_with_the_mask_true_on_text(small_gpt2):
    tokens, mask = small_gpt2.encode_batch(["cat", "", "cat cat cat cat"], 3)
    cat, space_cat = small_gpt2.encode("cat cat")
    pad = small_gpt2.pad_id
    expected = [[cat, pad, pad], [pad, pad, pad], [cat, space_cat, space_cat]]
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_array_equal(mask.sum(axis=1), [1, 0, 3])
    assert tokens.dtype == np.int32
    assert mask.dtype == np.bool_


def test_gpt2_decoding_a_padded_row_returns_the_lower_cased_text(small_gpt2):
    tokens, _ = small_gpt2.encode_batch(["A cat's  low!"], 16)
    assert small_gpt2.decode(tokens[0]) == "a cat's  low!"


def test_gpt2_vocabulary_without_end_of_text_is_refused(gpt2_files):
    with pytest.raises(errors.UserError, match=r"no <\|endoftext\|>"):
        bpe.Gpt2Tokenizer(b'{"a": 0}', gpt2_files[1])


def test_merges_of_another_vocabulary_are_refused(gpt2_files):
    with pytest.raises(errors.UserError, match="'xy'"):
        bpe.Gpt2Tokenizer(gpt2_files[0], b"#version: 0.2\nx y\n")


def test_a_merge_line_without_two_symbols_is_refused_by_number():
    with pytest.raises(errors.UserError, match="line 3"):
        bpe.ClipTokenizer(b"#version: 0.2\na b\nabc\n")


def test_half_a_surrogate_pair_is_refused(small_gpt2):
    with pytest.raises(errors.UserError, match="not valid Unicode at character 1"):
        small_gpt2.encode("a\ud800")


def test_clip_ids_are_bytes_then_word_ends_then_merges_then_specials(small_clip):
    # 256 bytes, the same with a word end, 4 merges: "cat</w>" is merge 1, "cat" 2.
    assert small_clip.vocab_size == 256 + 256 + 4 + 2
    assert (small_clip.start_id, small_clip.end_id) == (516, 517)
    # Printable bytes lead, so "!" is 0 and "y" is ord("y") - 33.
    assert small_clip.encode("cat caty") == [516, 513, 514, 256 + ord("y") - 33, 517]


def test_clip_empty_text_is_the_two_specials(small_clip):
    assert small_clip.encode("") == [small_clip.start_id, small_clip.end_id]
    _, mask = small_clip.encode_batch([""], 5)
    np.testing.assert_array_equal(mask, [[True, True, False, False, False]])


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("  Cat \n\t CAT ", "cat cat"),
        ("cat &amp;amp; cat", "cat & cat"),
        ("caf\u00c3\u00a9", "café"),
        ("“cat”", '"cat"'),
    ],
)
def test_clip_repairs_unescapes_collapses_and_lowercases(small_clip, text, same_as):
    assert small_clip.encode(text) == small_clip.encode(same_as)


def test_clip_specials_in_text_count_only_where_the_split_finds_them(small_clip):
    assert small_clip.encode("<|endoftext|>")[1:-1] == [small_clip.end_id]
    # "!<|" is one run of symbols, so no special is left to find.
    assert small_clip.end_id not in small_clip.encode("!<|endoftext|>")[1:-1]


def test_clip_long_text_keeps_the_end_token(small_clip):
    tokens, mask = small_clip.encode_batch(["cat " * 9], 4)
    np.testing.assert_array_equal(tokens, [[516, 513, 513, 517]])
    assert mask.all()


def test_clip_decoding_gives_the_cleaned_words(small_clip):
    tokens, _ = small_clip.encode_batch(["Cat's  emoji 😀"], 32)
    assert small_clip.decode(tokens[0]) == "cat 's emoji 😀"


def test_a_context_without_room_is_refused(small_gpt2, small_clip):
    assert small_gpt2.encode_batch(["cat"], 1)[0].shape == (1, 1)
    with pytest.raises(errors.UserError, match="context=0"):
        small_gpt2.encode_batch(["cat"], 0)
    with pytest.raises(errors.UserError, match="at least 2 positions"):
        small_clip.encode_batch(["cat"], 1)


def test_pickled_tokenizers_encode_equally(small_gpt2, small_clip):
    # Data workers receive their tokenizer by pickle.
    for tokenizer in (small_gpt2, small_clip):
        again = pickle.loads(pickle.dumps(tokenizer))
        assert again.encode("cat's low") == tokenizer.encode("cat's low")


@pytest.mark.usefixtures("published_vocabulary")
def test_published_gpt2_equals_every_released_row():
    tokenizer = bpe.published_gpt2()
    assert (tokenizer.vocab_size, tokenizer.pad_id) == (50257, 50256)
    for row in json.loads(GOLDEN.read_text()):
        tokens, mask = tokenizer.encode_batch([row["text"]], 128)
        assert tokenizer.encode(row["text"]) == row["gpt2"]
        assert tokens[0].tolist() == row["padded"]
        assert mask[0].tolist() == row["mask"]
        assert tokenizer.decode(row["gpt2"]) == row["text"].lower()


@pytest.mark.usefixtures("published_vocabulary")
def test_published_clip_equals_every_released_row():
    tokenizer = bpe.published_clip()
    assert (tokenizer.vocab_size, tokenizer.pad_id) == (49408, 0)
    for row in json.loads(GOLDEN.read_text()):
        tokens, mask = tokenizer.encode_batch([row["text"]], 77)
        assert tokens[0].tolist() == row["clip"]
        # The mask is a prefix, so its sum says all.
        assert mask[0].sum() == row["clip_len"]
        assert mask[0, : row["clip_len"]].all()


@pytest.mark.parametrize(
    "encoder",
    [b"", b"\xff", b"[" * 100_000, b"[]", b'{"<|endoftext|>": 1}', b'{"a": 0, "b": 0}'],
)
def test_a_damaged_vocabulary_is_a_user_error(gpt2_files, encoder):
    with pytest.raises(errors.UserError, match=r"encoder\.json"):
        bpe.Gpt2Tokenizer(encoder, gpt2_files[1])


@pytest.mark.parametrize("merges", [b"#\n\xff a", "#\né ß".encode()])
def test_damaged_merges_are_a_user_error(gpt2_files, merges):
    with pytest.raises(errors.UserError, match="merges"):
        bpe.Gpt2Tokenizer(gpt2_files[0], merges)
