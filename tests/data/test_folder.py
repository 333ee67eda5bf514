"""A folder of pictures is read as people have it, and says what it skips."""

from __future__ import annotations

import json
import logging
import pathlib

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from glide_jax import errors
from glide_jax.data import folder, schema, sources
from tests.data import conftest, streams


def write(root: pathlib.Path, names: str, captions: str = "") -> pathlib.Path:
    """Pictures of these names; and caption files, each with its own name in it."""
    for i, name in enumerate(names.split()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(conftest.encoded_picture(i))
    for name in captions.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"of {name}", encoding="utf-8")
    return root


def read(spec: str, **options) -> dict[str, str]:
    """The caption of each record by its key, in order."""
    source = sources.open_source(spec, **options)
    examples = [source[index] for index in range(len(source))]
    assert all(isinstance(example.image, bytes) for example in examples)
    return {example.key: example.caption for example in examples}


def test_every_suffix_in_any_case_is_read_in_natural_order(tmp_path):
    write(
        tmp_path,
        "10.jpg 2.JPEG 1.jfif 3.bmp 4.gif 5.webp 6.PPM b/1.png",
        "10.txt 2.TXT 1.txt 3.caption 4.cap 5.Txt 6.txt b/1.txt",
    )
    found = read(f"folder:{tmp_path}")
    assert [*found] == [
        "1.jfif",
        "2.JPEG",
        "3.bmp",
        "4.gif",
        "5.webp",
        "6.PPM",
        "10.jpg",
        "b/1.png",
    ]
    assert found["2.JPEG"] == "of 2.TXT"
    assert found["4.gif"] == "of 4.cap"


@pytest.fixture
def lines(caplog):
    """The lines that were logged since the last call."""
    sources._log_once.cache_clear()
    caplog.set_level(logging.INFO)

    def take() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    return take


def test_opening_says_once_what_is_used_and_what_is_skipped(tmp_path, lines):
    write(tmp_path, "a.jpg b.jpg", "a.txt b.txt")
    sources.open_source(f"folder:{tmp_path}")
    assert lines() == [f"folder:{tmp_path}: 2 pictures with captions"]
    # Training, validation and grids open a source each.
    sources.open_source(f"folder:{tmp_path}", split="validation")
    assert lines() == []
    write(tmp_path, "c.jpg ._d.jpg .e.jpg __MACOSX/f.jpg", "g.txt ._a.txt h.mp4")
    (tmp_path / "i.jpg").symlink_to(tmp_path / "gone")
    (tmp_path / "j").symlink_to(tmp_path)
    sources.open_source(f"folder:{tmp_path}")
    assert lines() == [
        f"folder:{tmp_path}: 2 pictures with captions; without a caption, e.g."
        " 'c.jpg'; skipped: AppleDouble file (3), broken link (1), caption file"
        " without a picture (1), hidden file (1), link to a folder that is listed"
        " already (1), picture without a caption (1), unknown suffix .mp4 (1)"
    ]


def test_a_picture_without_a_caption_is_a_record_only_where_none_is_required(tmp_path):
    write(tmp_path, "a.jpg b.jpg c.jpg d.png d.jpg", "a.txt")
    (tmp_path / "c.json").write_text('{"id": 3}')
    assert len(sources.open_source(f"folder:{tmp_path}")) == 2
    found = read(f"folder:{tmp_path}", captions_required=False)
    assert found == {"a.jpg": "of a.txt"} | dict.fromkeys(
        ["b.jpg", "c.jpg", "d.jpg", "d.png"], ""
    )
    with pytest.raises(schema.BadRecordError, match="missing caption"):
        sources.open_source(f"folder:{tmp_path}")[1]


def test_captions_are_read_through_links_to_folders(tmp_path):
    write(tmp_path / "away", "a.jpg", "a.txt")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "in").symlink_to(tmp_path / "away")
    assert read(f"folder:{tmp_path / 'root'}") == {"in/a.jpg": "of a.txt"}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_tables_of_imagefolder_are_read(tmp_path, kind):
    write(tmp_path, "train/1.jpg train/2.jpg train/x/3.png 4.jpg", "train/2.txt")
    (tmp_path / "train" / "1.json").write_text('{"caption": "of json"}')
    table = {
        "file_name": ["1.jpg", "./2.jpg", "x/3.png", "gone.jpg"],
        "text": ["one", "two", "three", "none"],
    }
    rows = [
        dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)
    ]
    place = tmp_path / "train" / f"metadata.{kind}"
    if kind == "jsonl":
        place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        lines = [",".join(row.values()) for row in rows]
        place.write_text("\n".join(["file_name,text", *lines]))
    else:
        pyarrow.parquet.write_table(pyarrow.table(table), place)
    # A caption file counts before the table, and the table before JSON.
    want = {"train/1.jpg": "one", "train/2.jpg": "of train/2.txt"}
    want["train/x/3.png"] = "three"
    assert read(f"folder:{tmp_path}") == want
    source = folder.Folder(str(tmp_path))
    assert source.report.skipped["table row without its picture"] == 1
    assert source.report.skipped["picture without a caption"] == 1
    assert source.report.skipped["table row whose picture has a caption file"] == 1
    assert f"captions from train/metadata.{kind}" in source.report.describe()
    assert place in sources.open_source(f"folder:{tmp_path}").files()


def test_options_choose_the_column_and_the_files(tmp_path):
    write(tmp_path, "a.jpg a.png b.jpg", "a.txt b.txt a.cap")
    rows = [{"file_name": "a.jpg", "alt": "table"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "b.json").write_text('{"alt": "json"}')
    with pytest.raises(errors.UserError, match=r"a\.jpg and a\.png"):
        sources.open_source(f"folder:{tmp_path}")
    spec = f"folder:{tmp_path}?image=jpg"
    assert read(spec) == {"a.jpg": "of a.txt", "b.jpg": "of b.txt"}
    assert read(f"{spec}&caption=cap") == {"a.jpg": "of a.cap"}
    assert read(f"{spec}&caption=alt") == {"a.jpg": "table", "b.jpg": "json"}


def test_several_captions_are_used_by_the_policy(tmp_path):
    write(tmp_path, "a.jpg b.jpg c.jpg")
    (tmp_path / "a.txt").write_bytes(b"one\r\n\r\n two \nthree\x0cfour\n")
    (tmp_path / "b.json").write_text('{"caption": ["one", "two"]}')
    rows = [{"file_name": "c.jpg", "text": text} for text in ("one", "two", "")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    whole = "one\r\n\r\n two \nthree\x0cfour"
    assert [*read(f"folder:{tmp_path}").values()] == [whole, "one", "one"]
    spec = f"folder:{tmp_path}?captions="
    assert [*read(spec + "first").values()] == ["one"] * 3
    joined = [*read(spec + "join").values()]
    assert joined == ["one two three\x0cfour", "one two", "one two"]
    source = sources.open_source(spec + "random")
    assert source[0].choices == ("one", "two", "three\x0cfour")
    assert source[2].choices == ("one", "two")


@pytest.mark.parametrize("name", ["tars", "a, b", "[ab]*", "{1..2}"])
def test_a_folder_of_tars_is_read_as_such(tmp_path, write_tar, pictures, lines, name):
    place = tmp_path / name
    (place / "b").mkdir(parents=True)
    write_tar(place / "10.tar", pictures(1))
    write_tar(place / "2.TAR", pictures(2))
    write_tar(place / "b" / "1.tar", pictures(3))
    (place / "2_stats.json").write_text("{}")
    source = sources.open_source(f"folder:{place}")
    assert [path.name for path in source.files()] == ["2.TAR", "10.tar", "1.tar"]
    assert len(source) == len(sources.open_source(f"webdataset:{place}")) == 6
    opened, _ = lines()
    assert opened.startswith(f"webdataset:{place}: ")
    assert f"folder:{place} contains tars and no pictures" in opened
    assert "6 pictures with captions in 3 tars" in opened
    assert "file that is not a tar (1)" in opened
    # With a picture beside them, the folder is one of pictures.
    write(place, "a.jpg", "a.txt")
    assert len(sources.open_source(f"folder:{place}")) == 1


@pytest.mark.parametrize(
    "spec", ["folder:https://bucket/x", "webdataset:https://b/{0..9}.tar"]
)
def test_a_url_is_refused(spec):
    with pytest.raises(errors.UserError, match="is a URL"):
        sources.open_source(spec)


def test_a_home_folder_is_expanded(tmp_path, write_tar, pictures, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "p", "a.jpg", "a.txt")
    write_tar(tmp_path / "p.tar", pictures(1))
    assert len(sources.open_source("folder:~/p")) == 1
    assert len(sources.open_source("webdataset:~/p.tar,~/p{,}.tar")) == 1


def test_a_resumed_stream_draws_the_same_captions(tmp_path, tokenizer):
    write(tmp_path, "a.jpg b.jpg")
    for name in "ab":
        lines = [f"a {size} {name}" for size in ("small", "large", "red", "green")]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    source = sources.open_source(f"folder:{tmp_path}?captions=random")

    def tokens(start_step: int, count: int, **settings) -> list[np.ndarray]:
        batches = streams.make_batches(
            source,
            tokenizer,
            image_px=8,
            text_context=12,
            global_batch_size=4,
            seed=3,
            start_step=start_step,
            **settings,
        )
        return [next(batches)["tokens"] for _ in range(count)]

    whole = tokens(0, 6)
    np.testing.assert_array_equal(whole[4:], tokens(4, 2))
    halves = [tokens(0, 6, process_index=i, process_count=2) for i in range(2)]
    np.testing.assert_array_equal(whole, np.concatenate(halves, axis=1))
    # The captions of a picture vary over the epochs.
    assert len(np.unique(np.concatenate(whole), axis=0)) > 2


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("metadata.csv", "File_Name,text\na.jpg,A\n", "only File_Name, text"),
        ("metadata.csv", "file_name,text\nsub\\a.jpg,A\n", "paths in tables have /"),
        (
            "metadata.jsonl",
            '{"file_name": 1, "text": "A"}\n',
            "has type int, not text",
        ),
    ],
)
def test_a_table_that_names_no_picture_is_reported_with_its_mistake(
    tmp_path, name, text, told
):
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / name).write_text(text)
    with pytest.raises(errors.UserError) as caught:
        folder.Folder(str(tmp_path))
    assert told in str(caught.value)
    assert '{"file_name": "a.jpg", "text": "a caption"}' in str(caught.value)
    assert "\n" not in str(caught.value)
