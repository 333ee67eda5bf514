"""Atomic writes of files."""

from __future__ import annotations

import os

import pytest

from glide_jax.errors import UserError
from glide_jax.runtime import files


def test_a_file_replaces_an_older_one_and_leaves_no_scratch_file(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("one\n", "zwei: ä\n"):
        files.write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    files.write_bytes(path, b"\0", is_shared=True, is_durable=False)
    assert path.read_bytes() == b"\0"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_raises_leaves_the_old_content(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write_half():
        with files.scratch(path) as draft:
            draft.write_bytes(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_permissions_are_those_of_a_new_file(tmp_path):
    (tmp_path / "usual").touch()
    with files.scratch(tmp_path / "a") as draft:
        draft.unlink()
        os.close(os.open(draft, os.O_CREAT | os.O_WRONLY, 0o600))
    usual, made = ((tmp_path / name).stat().st_mode for name in ("usual", "a"))
    assert made == usual


def test_shared_scratch_files_have_different_names(tmp_path):
    path = tmp_path / "a"
    with (
        files.scratch(path, is_shared=True) as one,
        files.scratch(path, is_shared=True) as other,
    ):
        one.write_text("one")
        other.write_text("other")
        assert one != other
    assert path.read_text() == "one"  # the outer block ended last
    assert list(tmp_path.iterdir()) == [path]


def test_the_next_write_replaces_what_a_killed_one_left(tmp_path):
    path = tmp_path / "a"
    files.scratch_path(path).write_text("half of a longer te")
    files.write_text(path, "whole")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_json_values_survive_and_errors_name_the_file(tmp_path):
    value = {"a": [1, None], "ä": "ü"}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value
    (tmp_path / "a.json").write_text("{")
    for name in ("a.json", "lacking.json"):
        with pytest.raises(UserError, match=name):
            files.read_json(tmp_path / name)
    with pytest.raises(UserError, match="lacking"):
        files.write_json(tmp_path / "lacking" / "a.json", value)


def test_renames_files_and_folders(tmp_path):
    folder = tmp_path / "draft"
    folder.mkdir()
    files.write_text(folder / "a", "text")
    files.rename(folder, tmp_path / "final")
    files.sync(tmp_path)
    assert (tmp_path / "final" / "a").read_text() == "text"
    with pytest.raises(FileNotFoundError):
        files.rename(tmp_path / "lacking", tmp_path / "other")
