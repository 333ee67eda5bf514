"""The folder of --output: found writable before any work, gone again if unused."""

from __future__ import annotations

import pytest
from PIL import Image

from glide_jax import errors
from glide_jax.cli import main, output_folders
from glide_jax.data import sources


def test_a_folder_is_made_and_stays_with_what_was_written(tmp_path):
    with output_folders.made_folder(str(tmp_path / "a" / "b")) as folder:
        (folder / "file").write_text("")
    assert (tmp_path / "a" / "b" / "file").exists()


def test_a_folder_made_for_a_failed_run_is_removed_and_an_older_one_is_kept(tmp_path):
    (tmp_path / "there").mkdir()
    for place in ("there", "there/a/b"):
        with (
            pytest.raises(errors.UserError, match="no good"),
            output_folders.made_folder(str(tmp_path / place)),
        ):
            raise errors.UserError("no good")
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_refused_data_work_leaves_no_folder(tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"")
    (tmp_path / "bad" / "a.txt").write_bytes("grün".encode("latin-1"))
    out = tmp_path / "out" / "records"
    for action, source, named in (
        ("build", "absent", "absent"),
        ("tokenizer", "absent", "absent"),
        ("tokenizer", "bad", "a.png: broken caption (not UTF-8)"),
        ("build", "bad", "no usable record (1 broken caption)"),
    ):
        flags = f"--source=folder:{tmp_path / source}", f"--output={out}"
        assert main.run(["data", action, *flags]) == 2
        # Progress of the writer may stand above it.
        assert named in capsys.readouterr().err.strip().splitlines()[-1]
        assert not out.parent.exists()


def test_two_splits_are_written_to_one_data_set(tmp_path, capsys):
    for split in ("train", "validation"):
        folder = tmp_path / split
        folder.mkdir()
        Image.new("RGB", (8, 8)).save(folder / "a.png")
        (folder / "a.txt").write_text(f"one of {split}")
        flags = f"--source=folder:{folder}", f"--output={tmp_path / 'records'}"
        assert main.run(["data", "build", *flags, f"--split={split}"]) == 0
        told = capsys.readouterr().out.strip()
        spec = told.partition("sources=")[2].strip("'")
        assert sources.open_source(spec)[0].caption == f"one of {split}"
    source = sources.open_source(f"tfds:{tmp_path / 'records'}", split="validation")
    assert source[0].caption == "one of validation"
