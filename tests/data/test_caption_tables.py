"""Tables give the captions of the pictures that they name."""

from __future__ import annotations

import collections
import pathlib

import pyarrow
import pyarrow.parquet
import pytest

from glide_jax import errors
from glide_jax.data import caption_tables


def write(path: pathlib.Path, content: str | dict) -> pathlib.Path:
    if isinstance(content, dict):
        pyarrow.parquet.write_table(pyarrow.table(content), path)
    else:
        path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", '{"file_name": "a", "text": "A"}\n\n{"file_name": "b", '),
        ("metadata.csv", 'file_name,text\na,"A'),
        ("x.parquet", "PAR1 no"),
        ("metadata.jsonl", "[1]\n"),
        ("metadata.csv", "file_name,text\na," + "x" * 200_000),
    ],
)
def test_a_broken_table_is_refused_by_name(tmp_path, name, content):
    path = write(tmp_path / name, content)
    with pytest.raises(errors.UserError, match=name):
        caption_tables.read(path, "file_name")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "metadata.jsonl",
            '{"file_name": "a", "text": "A"}\r\n'
            '{"file_name": "b", "text": ["B1", " B2 "], "x": 1}\n'
            '{"file_name": "c", "text": null}\n{"file_name": "d"}\n{"file_name": 3}',
        ),
        ("METADATA.CSV", "\ufefffile_name,text\na,A\nb,B1\nb, B2\nc,\n"),
        ("metadata.csv", "text;file_name\nA;a\nB1;b\nB2;b\n;c\n"),
        ("metadata.csv", "sep=;\r\ntext; file_name \r\nA;a\r\nB1;b\r\nB2;b\r\n;c\r\n"),
        ("metadata.csv", "file_name\ttext\na\tA\nb\tB1\nb\tB2\nc\t\n"),
        (
            "t.Parquet",
            {"file_name": ["a", "b", "c"], "text": [["A"], ["B1", "B2"], None]},
        ),
    ],
)
def test_tables_of_every_kind_give_the_same(tmp_path, name, content):
    counts = collections.Counter()
    path = write(tmp_path / name, content)
    table = caption_tables.read(path, "file_name", skipped=counts)
    assert counts.total() == (1 if name == "metadata.jsonl" else 0)
    assert {k: v for k, v in table.items() if v} == {
        "a": ("A",),
        "b": ("B1", "B2"),
    }


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("metadata.jsonl", '{"file_name": "a", "label": 3}\n', "file_name, label"),
        ("metadata.csv", "File_Name,text\na,A\n", "File_Name, text"),
        ("metadata.csv", "", "none"),
        ("x.parquet", {"key": ["a"], "text": ["A"]}, "key, text"),
    ],
)
def test_a_table_without_the_columns_is_counted(tmp_path, name, content, found):
    counts = collections.Counter()
    path = write(tmp_path / name, content)
    assert caption_tables.read(path, "file_name", skipped=counts) is None
    wanted = "table without the columns file_name and caption or text, only"
    assert counts == {f"{wanted} {found}": 1}


@pytest.mark.parametrize(
    ("name", "content", "nameless"),
    [
        ("metadata.csv", "file_name,text\n", 0),  # it has the columns, and no rows
        ("metadata.jsonl", '{"file_name": "a", "text": "A"}\n{"other": 1}\n', 1),
        ("t.parquet", {"file_name": ["a", None], "text": ["A", "B"]}, 1),
        ("t.parquet", {"file_name": [1, 2], "text": ["A", "B"]}, 2),
    ],
)
def test_rows_without_a_name_are_counted(tmp_path, name, content, nameless):
    counts = collections.Counter()
    path = write(tmp_path / name, content)
    assert caption_tables.read(path, "file_name", skipped=counts) is not None
    assert counts.total() == nameless


def test_a_column_is_chosen_or_the_first_default(tmp_path):
    content = {"key": ["a"], "text": ["t"], "caption": ["c"], "alt": ["x"]}
    path = write(tmp_path / "t.parquet", content)
    assert caption_tables.read(path, "key") == {"a": ("c",)}
    assert caption_tables.read(path, "key", "alt") == {"a": ("x",)}
    assert caption_tables.read(path, "key", "none") is None
