"""Every file of a folder is listed once or counted as skipped."""

from __future__ import annotations

import os
import pathlib

import pytest

from glide_jax import errors
from glide_jax.data import picture_listing


def make(root: pathlib.Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(root: pathlib.Path) -> list[str]:
    found = picture_listing.list_files(root).pictures
    return [path.relative_to(root).as_posix() for path in found]


def test_pictures_have_any_suffix_in_any_case_and_are_in_natural_order(tmp_path):
    names = ["2.png", "10.JPG", "a.jfif", "a/9.Webp", "a/10.bmp", "b.GIF", "c.ppm"]
    make(tmp_path, *reversed(names), "notes.txt", "film.mp4", "none")
    found = picture_listing.list_files(tmp_path)
    assert set(listed(tmp_path)) == set(names)
    assert listed(tmp_path)[:2] == ["2.png", "10.JPG"]
    assert listed(tmp_path).index("a/9.Webp") < listed(tmp_path).index("a/10.bmp")
    assert [path.name for path in found.others] == ["film.mp4", "none", "notes.txt"]
    assert found.skipped == {}
    assert picture_listing.describe(found.skipped) == ""


def test_hidden_and_apple_double_files_are_counted_and_not_listed(tmp_path):
    make(tmp_path, "a.png", "._a.png", ".b.png", ".git/c.png", "__MACOSX/._a.png")
    make(tmp_path, "sub/._d.jpg")
    found = picture_listing.list_files(tmp_path)
    assert listed(tmp_path) == ["a.png"]
    assert found.skipped == {"hidden file": 2, "AppleDouble file": 3}
    told = picture_listing.describe(found.skipped)
    assert told == "skipped: AppleDouble file (3), hidden file (2)"


def test_a_folder_below_a_hidden_folder_is_listed(tmp_path):
    make(tmp_path, ".cache/pictures/a.png")
    assert listed(tmp_path / ".cache" / "pictures") == ["a.png"]


def test_each_real_folder_is_listed_once_through_links(tmp_path):
    root, away = tmp_path / "root", tmp_path / "away"
    make(root, "real/a.png")
    make(away, "b.png", "deep/c.png")
    # A loop, a second way to a folder of the root, and two ways out of it.
    (root / "real" / "up").symlink_to(root)
    (root / "again").symlink_to(root / "real")
    (root / "out1").symlink_to(away)
    (root / "out2").symlink_to(away)
    (away / "back").symlink_to(root)
    (root / "d.png").symlink_to(away / "b.png")
    assert sorted(listed(root)) == [
        "d.png",
        "out1/b.png",
        "out1/deep/c.png",
        "real/a.png",
    ]
    found = picture_listing.list_files(root)
    assert sum(found.skipped.values()) == 4
    assert set(found.skipped) == {"link to a folder that is listed already"}


def test_broken_links_and_pipes_are_counted(tmp_path):
    make(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "c.png")
    os.mkfifo(tmp_path / "d.png")
    found = picture_listing.list_files(tmp_path)
    assert listed(tmp_path) == ["a.png"]
    assert found.skipped == {"broken link": 2, "not a regular file": 1}


@pytest.mark.parametrize("name", ["nothing", "file.png", "link"])
def test_what_is_not_a_folder_is_refused(tmp_path, name):
    make(tmp_path, "file.png")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(errors.UserError, match="cannot be listed"):
        picture_listing.list_files(tmp_path / name)
