"""Only captions that every tokenizer takes get through."""

from __future__ import annotations

import codecs

import pytest

from glide_jax.data import captions, disk, schema


@pytest.mark.parametrize(
    ("caption", "kind"),
    [
        ("", "empty caption"),
        (" \n\u2003", "empty caption"),
        ("half a pair \ud83d", "broken caption"),
        ("é" * (disk.MAX_CAPTION_BYTES // 2 + 1), "huge caption"),
    ],
)
def test_a_caption_that_cannot_be_used_is_a_bad_record(caption, kind):
    with pytest.raises(schema.BadRecordError) as caught:
        captions.check(caption, "key")
    assert caught.value.kind == kind


def test_any_other_caption_is_taken():
    captions.check("é" * (disk.MAX_CAPTION_BYTES // 2), "key")
    captions.check("a corgi\0", "key")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b'{"caption": 3}', b"[" * 100_000, b'"\xff"', b"9" * 5000],
)
def test_json_without_a_caption_is_a_bad_record(content):
    with pytest.raises(schema.BadRecordError, match="missing caption"):
        captions.from_json(content, "key")


def test_a_byte_order_mark_is_no_part_of_a_caption():
    mark = codecs.BOM_UTF8
    assert captions.from_text(mark + "ein Grünspecht\n".encode(), "key") == (
        "ein Grünspecht"
    )
    assert captions.from_text(mark + b"\n", "key") == ""
    assert captions.from_json(mark + b'{"caption": "a corgi"}', "key") == ("a corgi",)


def test_half_a_pair_from_json_is_found_before_a_tokenizer_stumbles():
    (caption,) = captions.from_json(b'{"caption": "\\ud83d"}', "key")
    with pytest.raises(schema.BadRecordError, match="not Unicode"):
        captions.check(caption, "key")
