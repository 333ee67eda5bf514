"""parquet:FILE.parquet reads pictures that a table names; each fault is named."""

from __future__ import annotations

import io

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from glide_jax.data import picture_table, retrying_reads, schema, sources
from glide_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        stream = io.BytesIO()
        Image.new("RGB", (4, 4), colour).save(stream, "PNG")
        (tmp_path / name).write_bytes(stream.getvalue())
    return tmp_path


def write(folder, **columns) -> str:
    parquet.write_table(pa.table(columns), folder / "pairs.parquet")
    return f"parquet:{folder / 'pairs.parquet'}"


def test_rows_are_read_in_order_with_their_captions(folder):
    spec = write(
        folder,
        image=["b.png", "a.png", "b.png", None, "a.png"],
        text=["blue", "red", "very blue", "no picture", ""],
        size=[1, 2, 3, 4, 5],
    )
    source = sources.open_source(f"{spec}?captions=random")
    assert [source[i].caption for i in range(len(source))] == ["blue", "red"]
    assert source[0].choices == ("blue", "very blue")
    assert source[0].image == (folder / "b.png").read_bytes()
    assert source[1].key == "pairs.parquet:a.png"
    assert source.report.skipped == {
        picture_table.NO_PICTURE: 1,
        picture_table.NO_CAPTION: 1,
    }
    named = sources.open_source(f"{write(folder, p=['a.png'], c=[['x', 'y']])}?{NAMED}")
    assert named[0].caption == "x y"


NAMED = "image=p&caption=c&captions=join"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a.png"], "text": ["x"]}, "no column image or file_name, only path"),
        ({"image": ["a.png"], "words": ["x"]}, "no column caption or text"),
        ({"image": ["a.png"], "text": [None]}, "no usable row"),
    ],
)
def test_a_table_that_cannot_be_used_is_an_error(folder, columns, message):
    with pytest.raises(UserError, match=message):
        sources.open_source(write(folder, **columns))


def test_a_damaged_table_and_a_missing_picture_are_named(folder, monkeypatch):
    spec = write(folder, image=["absent.png"], text=["x"])
    monkeypatch.setattr(retrying_reads, "WAITS_SECS", ())
    with pytest.raises(schema.BadRecordError, match=r"pairs\.parquet:absent\.png"):
        _ = sources.open_source(spec)[0]
    (folder / "pairs.parquet").write_bytes(b"not a table")
    with pytest.raises(UserError, match="cannot be read as a table"):
        sources.open_source(spec)
