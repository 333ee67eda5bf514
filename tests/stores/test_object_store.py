"""Objects on real servers of both protocols, with throttling and cut connections."""

from __future__ import annotations

import os
import pathlib

import pytest

from glide_jax.errors import UserError
from glide_jax.runtime import object_store
from tests.stores import servers

URLS = [f"{scheme}://{servers.BUCKET}/run" for scheme in ("gs", "s3")]


@pytest.fixture(params=URLS)
def store(
    request: pytest.FixtureRequest,
    stores: servers.Servers,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> object_store.ObjectStore:
    monkeypatch.setattr(object_store, "_FIRST_WAIT_SECS", 0.01)
    monkeypatch.setattr(object_store, "RETRY_SECS", 20.0)
    return object_store.ObjectStore(f"{request.param}/{tmp_path.name}", "--workdir")


def test_objects_are_written_listed_read_in_parts_and_deleted(store, tmp_path):
    assert store.list() == {}
    assert store.write("a/x.txt", b"hello")
    assert store.write("ab", b"no part of a/")
    assert store.list("a").keys() == {"a/x.txt"}
    assert store.read("a/x.txt", 1, 3) == b"el"
    assert store.read("a/x.txt") == b"hello"
    before = store.list()["a/x.txt"]
    assert (before.size, before.modified > 1.7e9) == (5, True)
    store.write("a/x.txt", b"hellp")
    assert store.list()["a/x.txt"].version != before.version
    large, copy = tmp_path / "large", tmp_path / "copy"
    large.write_bytes(os.urandom(40 << 20))
    store.upload(large, "large")
    store.download("large", copy)
    assert copy.read_bytes() == large.read_bytes()
    store.delete(["a/x.txt", "large", "never there"])
    assert store.list().keys() == {"ab"}
    with pytest.raises(object_store.MissingError):
        store.read("a/x.txt")
    with pytest.raises(object_store.MissingError):
        store.download("a/x.txt", copy)


@pytest.mark.parametrize("last", [b"\r", b"\n", b"\r\n", b"\n--", b" ", b"\0"])
def test_the_last_bytes_are_read_back(store, last):
    store.write("x", b"manifest" + last)
    assert store.read("x") == b"manifest" + last


def test_one_of_two_writers_makes_a_new_object(store):
    assert store.write("lock", b"first", must_be_new=True)
    assert not store.write("lock", b"second", must_be_new=True)
    assert store.read("lock") == b"first"


@pytest.mark.parametrize("kind", ["throttle", "cut"])
def test_requests_are_repeated(store, stores, kind, tmp_path):
    stores.faults.add(kind)
    store.write("x", b"content")
    stores.faults.add(kind, 1, "GET")
    assert store.read("x") == b"content"
    stores.faults.add(kind, 2, "GET")
    store.download("x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"content"
    stores.faults.add(kind, 1, "GET")
    assert store.list().keys() == {"x"}


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_bucket_that_does_not_exist_is_one_line(stores, scheme):
    with pytest.raises(UserError, match=r"--base=\w+://none/x: its bucket does not"):
        object_store.ObjectStore(f"{scheme}://none/x", "--base")
    with pytest.raises(UserError, match="names no bucket"):
        object_store.ObjectStore(f"{scheme}://", "--base")
