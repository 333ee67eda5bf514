"""Files form records by one rule, in folders and in tars."""

from __future__ import annotations

import pytest

from glide_jax import errors
from glide_jax.data import record_members, source_options


def assemble(names: str, query: str = "", in_tables: str = ""):
    _, options = source_options.split_options(f"x?{query}" if query else "x")
    return record_members.assemble(
        names.split(), options, "here", set(in_tables.split())
    )


def pairs(names: str, query: str = "", in_tables: str = "") -> set[tuple]:
    """(picture, caption file) of each record."""
    records = assemble(names, query, in_tables).records
    return {(r.picture, r.text or r.json) for r in records}


@pytest.mark.parametrize(
    ("names", "want"),
    [
        # webdataset: the extension is what follows the first dot.
        ("a.jpg a.seg.png a.txt", {("a.jpg", "a.txt")}),
        ("a.seg.png a.depth.png a.jpg a.json", {("a.jpg", "a.json")}),
        ("a.b/x.jpg a.b/x.txt", {("a.b/x.jpg", "a.b/x.txt")}),
        ("a.mask.webp a.txt", {("a.mask.webp", "a.txt")}),
        # Any case.
        ("IMG.JPG IMG.TXT", {("IMG.JPG", "IMG.TXT")}),
        ("a.Jfif a.Caption b.PPM b.CAP", {("a.Jfif", "a.Caption"), ("b.PPM", "b.CAP")}),
        # A stem with a dot stands alone.
        (
            "p.01.jpg p.01.txt p.02.jpg p.02.txt",
            {("p.01.jpg", "p.01.txt"), ("p.02.jpg", "p.02.txt")},
        ),
        ("p.01.jpg p.02.jpg", {("p.01.jpg", None), ("p.02.jpg", None)}),
        ("v1.5.jpg v1.5.json", {("v1.5.jpg", "v1.5.json")}),
        (
            "v1.jpg v1.json v1.5.jpg v1.5.json",
            {("v1.jpg", "v1.json"), ("v1.5.jpg", "v1.5.json")},
        ),
        # macOS decomposes accents.
        ("cafe\u0301.jpg caf\u00e9.txt", {("cafe\u0301.jpg", "caf\u00e9.txt")}),
        (
            "1.jpg 1.txt 1.5.jpg 1.5.txt",
            {("1.jpg", "1.txt"), ("1.5.jpg", "1.5.txt")},
        ),
        # The first of several kinds of caption files.
        ("a.jpg a.cap a.txt a.caption", {("a.jpg", "a.txt")}),
        ("a.jpg a.caption a.json", {("a.jpg", "a.caption")}),
        ("a.jpg a.blip.txt", {("a.jpg", "a.blip.txt")}),
        # Without a caption, each picture is a record.
        ("a.jpg a.png", {("a.jpg", None), ("a.png", None)}),
    ],
)
def test_names_form_records(names, want):
    assert pairs(names) == want
    # In any order.
    assert pairs(" ".join(reversed(names.split()))) == want


@pytest.mark.parametrize(
    ("names", "query", "want"),
    [
        ("a.jpg a.png a.txt", "image=png", {("a.png", "a.txt")}),
        ("a.jpg a.seg.png a.txt", "image=.SEG.png", {("a.seg.png", "a.txt")}),
        ("p.0.jpg p.1.jpg p.txt", "image=1.jpg", {("p.1.jpg", "p.txt")}),
        ("a.jpg a.txt a.blip.txt", "caption=blip.txt", {("a.jpg", "a.blip.txt")}),
        ("a.jpg a.txt a.cap", "caption=cap", {("a.jpg", "a.cap")}),
        ("a.jpg a.txt a.json", "caption=alt", {("a.jpg", "a.json")}),
        ("a.jpg a.txt a.json", "caption=json", {("a.jpg", "a.json")}),
        ("a.jpg a.caption a.json", "caption=caption", {("a.jpg", "a.json")}),
        ("a.jpg a.caption a.txt", "caption=.caption", {("a.jpg", "a.caption")}),
        ("a.jpg a.json", "caption=txt", {("a.jpg", None)}),
        ("p.0.png p.0.txt", "image=png", {("p.0.png", "p.0.txt")}),
    ],
)
def test_options_select_the_files_of_a_sample(names, query, want):
    assert pairs(names, query) == want


@pytest.mark.parametrize(
    ("names", "named", "remedy"),
    [
        ("a.jpg a.png a.txt", ("a.jpg", "a.png"), "?image=jpg"),
        ("a.jpg a.jpeg a.json", ("a.jpeg", "a.jpg"), "?image=jpeg"),
        ("a.left.png a.right.png a.txt", ("a.left.png",), "?image=left.png"),
        ("a.jpg a.JPG a.txt", ("a.JPG", "a.jpg"), "remove all but one"),
        ("a.jpg a.x.txt a.y.txt", ("a.x.txt", "a.y.txt"), "?caption=x.txt"),
    ],
)
def test_two_files_of_equal_rank_are_refused_by_name(names, named, remedy):
    with pytest.raises(errors.UserError) as caught:
        assemble(names)
    for part in ("here", *named, remedy):
        assert part in str(caught.value)


def test_every_file_is_used_or_counted():
    found = assemble(
        "a.jpg a.seg.png a.txt a.cap a.npy b.txt c.json d.x.json d.jpg README e.mp4"
    )
    assert {record.picture for record in found.records} == {"a.jpg", "d.jpg"}
    assert +found.skipped == {
        "further picture of a sample": 1,
        "further caption file of a sample": 1,
        "unknown suffix .npy": 1,
        "unknown suffix .mp4": 1,
        "unknown suffix": 1,
        "caption file without a picture": 1,
        "JSON file without a picture": 1,
        "JSON file whose extension is longer than json": 1,
    }
    found = assemble("a.jpg a.txt b.png b.txt", "image=png")
    assert +found.skipped == {"picture with another extension than png": 1}
    assert assemble("p.1.jpg p.1.txt a.jpg").dotted == 1


def test_a_picture_that_a_table_names_is_a_record_by_itself():
    names = "i.jpg i.1.jpg j.jpg j.png j.json"
    want = {("i.jpg", None), ("i.1.jpg", None), ("j.jpg", None), ("j.png", None)}
    assert pairs(names, in_tables="i.jpg i.1.jpg j.jpg j.png") == want


@pytest.mark.parametrize(
    ("where", "place", "options"),
    [
        ("d", "d", {}),
        ("d?image=png", "d", {"image": "png"}),
        ("a-?.tar?caption=txt&image=jpg", "a-?.tar", {"text": "txt", "image": "jpg"}),
        ("d?caption=alt text", "d", {"column": "alt text"}),
        (
            "d?caption=a%26b+c&captions=join",
            "d",
            {"column": "a&b+c", "captions": "join"},
        ),
        # A "?" of a glob, and names that are not options.
        ("a-?.tar", "a-?.tar", {}),
        ("a?image.tar", "a?image.tar", {}),
        ("a?width=3", "a?width=3", {}),
        ("a?image=png&width=3", "a?image=png&width=3", {}),
    ],
)
def test_options_are_known_names_with_values(where, place, options):
    want = place, source_options.Options(**options)
    assert source_options.split_options(where) == want


@pytest.mark.parametrize(
    "query",
    ["image=", "image=mp4", "image=seg", "captions=last", "image=png&image=jpg"],
)
def test_a_wrong_option_is_refused(query):
    with pytest.raises(errors.UserError, match="set"):
        source_options.split_options(f"d?{query}")
