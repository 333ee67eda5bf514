"""A folder of pictures: its order, and the log line about skipped files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from glide_jax import errors
from glide_jax.eval import picture_folder
from tests.eval import sample_folders


@pytest.fixture
def listed(tmp_path, caplog):
    """listed() -> names in order, captions, and the one line."""
    caplog.set_level("INFO")

    def run():
        caplog.clear()
        found = picture_folder.list_pictures(tmp_path, "--images=f")
        (record,) = caplog.records
        names = [path.relative_to(tmp_path).as_posix() for path in found.files]
        return names, found.captions, record.getMessage()

    return run


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path, format="PNG")


def test_pictures_are_in_natural_order_whatever_the_case_of_their_suffix(
    tmp_path, listed
):
    write(tmp_path, "10.png", "2.PNG", "1.jpeg", "a/3.Jpg", "b10.bmp", "b9.gif")
    names, captions, told = listed()
    assert names == ["1.jpeg", "2.PNG", "10.png", "a/3.Jpg", "b9.gif", "b10.bmp"]
    assert captions is None
    assert told == "--images=f: 6 pictures in natural order"


def test_what_is_passed_over_is_counted_by_reason(tmp_path, listed):
    write(tmp_path, "1.png", "._1.png", ".hidden.png", "__MACOSX/1.png")
    for name in ("Thumbs.db", "notes.txt", "x.tiff"):
        (tmp_path / name).write_text("")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    names, _, told = listed()
    assert names == ["1.png"]
    for part in ("1 picture ", "AppleDouble", "hidden file (1)"):
        assert part in told
    for suffix in ("db", "txt", "tiff"):
        assert f"unknown suffix .{suffix} (1)" in told
    assert "broken link (1)" in told


def test_a_folder_without_pictures_says_what_it_holds(tmp_path):
    (tmp_path / "x.tiff").write_text("")
    with pytest.raises(
        errors.UserError, match=r"no pictures .*unknown suffix \.tiff \(1\)"
    ):
        picture_folder.list_pictures(tmp_path, "--images=f")


def entry(number, **more):
    return {"file": f"{number:06d}.png", "prompt": f"p{number}", **more}


def write_record(folder, *entries):
    (folder / "samples.json").write_text(json.dumps({"images": entries}))


def test_the_order_of_samples_json_goes_before_that_of_names(tmp_path, listed):
    write(tmp_path, "000001.png", "000002.png", "000002_base.png", "grid.png", "a.png")
    write_record(tmp_path, entry(2, base_file="000002_base.png"), entry(1))
    names, captions, told = listed()
    assert names == ["000002.png", "000001.png"]
    assert captions == ["p2", "p1"]
    assert "2 pictures that samples.json lists" in told
    for part in ("base model (1)", "sheet of several pictures (1)", "not list (1)"):
        assert part in told
    write_record(tmp_path, entry(1), {**entry(2), "prompt": {"a": 0.5, "b": 0.5}})
    assert listed()[1] is None  # of a blend no caption is the right one


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "not a record of glide sample"),
        ("{", "not a record of glide sample"),
        ('{"images": []}', "lists no picture"),
        (
            json.dumps({"images": [entry(1), entry(9)]}),
            r"1 missing picture, .*000009\.png",
        ),
    ],
)
def test_a_record_that_does_not_fit_is_refused(tmp_path, text, told):
    write(tmp_path, "000001.png")
    (tmp_path / "samples.json").write_text(text)
    with pytest.raises(errors.UserError, match=told):
        picture_folder.list_pictures(tmp_path, "--images=f")


def test_skipped_samples_of_a_comparison_are_logged(tmp_path, caplog):
    caplog.set_level("INFO")
    path = sample_folders.make(tmp_path, ["a", "b"], brightness=0)
    write(tmp_path, "extra.png")
    assert len(picture_folder.read(path)) == 2
    (record,) = caplog.records
    assert f"--samples={path}: 2 pictures" in record.getMessage()
    assert "samples.json does not list (1)" in record.getMessage()


def test_an_unfinished_run_is_reported(tmp_path, caplog):
    write(tmp_path, "000001.png")
    record = {"images": [entry(1)], "asked": {"pictures": 40}}
    (tmp_path / "samples.json").write_text(json.dumps(record))
    for read in (
        lambda: picture_folder.list_pictures(tmp_path, "--images=f"),
        lambda: picture_folder.read(str(tmp_path)),
    ):
        caplog.clear()
        read()
        assert "stopped at 1 of 40 pictures" in caplog.text
