from __future__ import annotations

import pathlib

import pytest

from glide_jax import errors
from glide_jax.runtime import paths


def test_the_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.local_path("~/runs/base", "--workdir") == tmp_path / "runs/base"


@pytest.mark.parametrize("given", ["runs/base", "/data/a b", "a:b", "C:/x"])
def test_other_paths_are_kept(given):
    assert paths.local_path(given, "--workdir") == pathlib.Path(given)


@pytest.mark.parametrize("given", ["./~", "./~/runs", "~/runs", "runs/../~"])
def test_a_path_that_was_read_is_read_as_the_same_again(given, monkeypatch, tmp_path):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for read in (paths.local_path, paths.local_text):
        once = read(given, "--workdir")
        assert read(once, "--workdir") == once
        is_of_home = str(once).startswith(str(tmp_path / "home"))
        assert is_of_home == given.startswith("~")


@pytest.mark.parametrize("url", ["https://h/x", "hf://datasets/x", "file:///tmp/x"])
def test_a_url_is_refused_with_the_flag_that_holds_it(url):
    with pytest.raises(errors.UserError, match=r"--workdir=.*URL"):
        paths.local_path(url, "--workdir")


def test_an_unknown_user_and_an_empty_path_are_refused():
    with pytest.raises(errors.UserError, match="not a user"):
        paths.local_path("~no_such_user_here/x", "--output")
    with pytest.raises(errors.UserError, match="--output is empty"):
        paths.local_path("", "--output")
