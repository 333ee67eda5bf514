"""Only captions that every tokenizer takes get through."""

from __future__ import annotations

import codecs

import pytest

from glide_jax.data import caption_text, retrying_reads, schema


@pytest.mark.parametrize(
    ("caption", "kind"),
    [
        ("", "empty caption"),
        (" \n\u2003", "empty caption"),
        ("half a pair \ud83d", "broken caption"),
        ("é" * (retrying_reads.MAX_CAPTION_BYTES // 2 + 1), "huge caption"),
    ],
)
def test_a_caption_that_cannot_be_used_is_a_bad_record(caption, kind):
    with pytest.raises(schema.BadRecordError) as caught:
        caption_text.check(caption, "key")
    assert caught.value.kind == kind


def test_any_other_caption_is_taken():
    caption_text.check("é" * (retrying_reads.MAX_CAPTION_BYTES // 2), "key")
    caption_text.check("a corgi\0", "key")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b'{"caption": 3}', b"[" * 100_000, b'"\xff"', b"9" * 5000],
)
def test_json_without_a_caption_is_a_bad_record(content):
    with pytest.raises(schema.BadRecordError, match="missing caption"):
        caption_text.from_json(content, "key")


def test_a_byte_order_mark_is_no_part_of_a_caption():
    mark = codecs.BOM_UTF8
    assert caption_text.from_text(mark + "ein Grünspecht\n".encode(), "key") == (
        "ein Grünspecht"
    )
    assert caption_text.from_text(mark + b"\n", "key") == ""
    assert caption_text.from_json(mark + b'{"caption": "a corgi"}', "key") == (
        "a corgi",
    )


def test_half_a_pair_from_json_is_found_before_a_tokenizer_stumbles():
    (caption,) = caption_text.from_json(b'{"caption": "\\ud83d"}', "key")
    with pytest.raises(schema.BadRecordError, match="not Unicode"):
        caption_text.check(caption, "key")


def test_a_list_from_json_keeps_its_texts():
    content = b'{"caption": "x", "tags": ["a ", "", 3, "b"], "none": []}'
    assert caption_text.from_json(content, "key", "tags") == ("a", "b")
    with pytest.raises(schema.BadRecordError, match="missing caption"):
        caption_text.from_json(content, "key", "none")
    assert caption_text.from_json(content, "key", "none", required=False) == ("",)


def test_a_draw_among_captions_is_a_function_of_seed_and_position():
    example = caption_text.make_example(b"", ["a\nb", "c"], "key", "random")
    assert example.choices == ("a", "b", "c")

    def drawn(seed):
        return [caption_text.draw(example, seed, p).caption for p in range(60)]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    # Over the epochs, each one is drawn.
    assert set(drawn(0)) == {"a", "b", "c"}
    # One caption alone takes no draw.
    alone = caption_text.make_example(b"", ["a\n"], "key", "random")
    assert caption_text.draw(alone, 0, 0) is alone


@pytest.mark.parametrize(
    ("policy", "caption"),
    [("", "a\n b"), ("first", "a"), ("join", "a b c"), ("random", "a")],
)
def test_several_captions_are_used_by_the_policy(policy, caption):
    example = caption_text.make_example(b"", ["a\n b", "c"], "key", policy)
    assert example.caption == caption
    assert caption_text.make_example(b"", ["\n"], "key", policy).caption.strip() == ""
