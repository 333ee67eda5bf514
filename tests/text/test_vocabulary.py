"""Vocabulary files: where they are found, what is refused, what a failure says."""

from __future__ import annotations

import gzip
import hashlib
import pathlib

import pytest

from glide_jax import errors
from glide_jax.text import vocabulary

CONTENT = b"#version: 0.2\na b\n"


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch) -> tuple[pathlib.Path, pathlib.Path]:
    """An empty given folder and an empty cache folder, both in force."""
    given, cache = tmp_path / "given", tmp_path / "cache" / "glide_jax"
    given.mkdir()
    cache.mkdir(parents=True)
    monkeypatch.setenv(vocabulary.FOLDER_VARIABLE, str(given))
    monkeypatch.delenv("GLIDE_JAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    return given, cache


def _file(url: str = "file:///nowhere/merges.txt") -> vocabulary.VocabularyFile:
    return vocabulary.VocabularyFile(
        name="merges.txt", sha256=hashlib.sha256(CONTENT).hexdigest(), url=url
    )


@pytest.mark.parametrize("folder", [0, 1])
def test_a_plain_or_gzipped_file_is_read_from_either_folder(folders, folder):
    path = folders[folder] / "merges.txt.gz"
    path.write_bytes(gzip.compress(CONTENT))
    assert vocabulary.read(_file()) == CONTENT
    path.rename(path.with_suffix("")).write_bytes(CONTENT)
    assert vocabulary.read(_file()) == CONTENT


def test_the_given_folder_goes_before_the_cache(folders):
    for folder in folders:
        (folder / "merges.txt").write_bytes(CONTENT)
    assert vocabulary.find(_file()) == folders[0] / "merges.txt"


def test_a_wrong_digest_is_refused_with_path_and_digest(folders):
    path = folders[0] / "merges.txt"
    path.write_bytes(b"other")
    with pytest.raises(errors.UserError, match=_file().sha256) as caught:
        vocabulary.read(_file())
    assert str(path) in str(caught.value)
    assert hashlib.sha256(b"other").hexdigest() in str(caught.value)


def test_a_cut_gzip_is_refused(folders):
    (folders[0] / "merges.txt.gz").write_bytes(gzip.compress(CONTENT)[:-9])
    with pytest.raises(errors.UserError, match="damaged gzip"):
        vocabulary.read(_file())


def test_a_download_is_kept_in_the_cache_and_leaves_nothing_else(folders, tmp_path):
    published = tmp_path / "published.gz"
    published.write_bytes(gzip.compress(CONTENT))
    assert vocabulary.read(_file(published.as_uri())) == CONTENT
    published.unlink()
    assert vocabulary.read(_file(published.as_uri())) == CONTENT
    assert [path.name for path in folders[1].iterdir()] == ["merges.txt"]


def test_a_wrong_download_is_refused_and_not_kept(folders, tmp_path):
    published = tmp_path / "published"
    published.write_bytes(b"<html>not found</html>")
    with pytest.raises(errors.UserError, match=published.as_uri()):
        vocabulary.read(_file(published.as_uri()))
    assert list(folders[1].iterdir()) == []


def test_a_failed_download_is_one_line_with_the_remedy():
    # Port 9 of this machine: refused at once, with or without a network.
    with pytest.raises(errors.UserError) as caught:
        vocabulary.read(_file("http://127.0.0.1:9/merges.txt"))
    message = str(caught.value)
    assert "\n" not in message
    assert "http://127.0.0.1:9/merges.txt could not be downloaded" in message
    assert f"set {vocabulary.FOLDER_VARIABLE}" in message


def test_a_cache_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    blocked = tmp_path / "a_file"
    blocked.write_bytes(CONTENT)
    monkeypatch.setenv("GLIDE_JAX_CACHE", str(blocked))
    with pytest.raises(errors.UserError, match="set GLIDE_JAX_CACHE"):
        vocabulary.read(_file(blocked.as_uri()))


def test_a_digest_depends_on_kind_names_and_contents():
    base = vocabulary.digest("gpt2", {"a": b"1", "b": b"2"})
    assert base == vocabulary.digest("gpt2", {"b": b"2", "a": b"1"})
    others = [
        vocabulary.digest("clip", {"a": b"1", "b": b"2"}),
        vocabulary.digest("gpt2", {"a": b"2", "b": b"1"}),
        vocabulary.digest("gpt2", {"a": b"1"}),
    ]
    assert len({base, *others}) == 4
