"""Folders that mirror places in object stores, on real servers of both protocols."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import shutil

import pytest

from glide_jax.errors import UserError
from glide_jax.runtime import locks, mirror, mirrors, object_store, store_lock
from tests.stores import servers

SCHEMES = ("gs", "s3")


@pytest.fixture(params=SCHEMES)
def url(request, stores, tmp_path, monkeypatch) -> str:
    monkeypatch.setattr(object_store, "_FIRST_WAIT_SECS", 0.01)
    monkeypatch.setattr(object_store, "RETRY_SECS", 20.0)
    # Only `close` uploads, unless a test calls `push`.
    monkeypatch.setattr(mirrors, "PUSH_SECS", 3600.0)
    return f"{request.param}://{servers.BUCKET}/{tmp_path.name}"


def open_in(cache: pathlib.Path, url: str) -> pathlib.Path:
    return mirrors.local(url, "--workdir", cache)


def objects(url: str) -> set[str]:
    found = object_store.ObjectStore(url, "url").list()
    return {name for name in found if f"{store_lock.FOLDER}/" not in name}


def write(folder: pathlib.Path, contents: dict[str, str]) -> None:
    for name, text in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def read(folder: pathlib.Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def always() -> bool:
    return True


STEP = {"params/a": "1", "params/b": "22", "meta.json": "{}", "manifest.json": "m"}
RUN = {
    "config.json": "c",
    "manifest.json": "top",
    "metrics.jsonl": "row\n",
    **{
        f"checkpoints/{step}/{name}": text
        for step in (1, 2)
        for name, text in STEP.items()
    },
}


def test_what_one_machine_writes_another_reads(url, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with mirrors.session(always):
        here = open_in(tmp_path / "a", url)
        write(here, RUN)
        write(here, {"checkpoints/3.unfinished/params/a": "1", ".x.tmp": "s"})
    assert objects(url) == RUN.keys()
    with mirrors.session(always):
        there = open_in(tmp_path / "b", url)
        assert "5 files" in caplog.text  # not the arrays of the checkpoints
        eager = {name for name in RUN if not name.startswith("checkpoints")}
        eager |= {f"checkpoints/{step}/manifest.json" for step in (1, 2)}
        assert read(there).keys() == eager
        mirrors.complete(there / "checkpoints/2", ["params/a", "meta.json"])
        assert read(there)["checkpoints/2/params/a"] == "1"
        assert "checkpoints/2/params/b" not in read(there)
        # Deleting a checkpoint that was not fetched deletes its objects.
        shutil.rmtree(there / "checkpoints/1")
        (there / "metrics.jsonl").write_text("row\nrow\n")
    left = {name for name in RUN if not name.startswith("checkpoints/1/")}
    assert objects(url) == left
    with mirrors.session(always):
        again = open_in(tmp_path / "a", url)
        assert (
            read(again).keys() - {"checkpoints/3.unfinished/params/a", ".x.tmp"} == left
        )
        assert read(again)["metrics.jsonl"] == "row\nrow\n"


def test_a_manifest_comes_last_and_goes_first(url, tmp_path, stores):
    with mirrors.session(always):
        folder = open_in(tmp_path, url)
        write(folder, {"bundle/params": "1", "bundle/bundle.json": "old"})
        mirrors._mirrors[url].push()
        write(folder, {"bundle/params": "2", "bundle/bundle.json": "new"})
        stores.faults.seen.clear()
        mirrors._mirrors[url].push()
        shutil.rmtree(folder / "bundle")
        mirrors._mirrors[url].push()
    changes = [
        (line.split()[0].replace("POST", "PUT"), line)
        for line in stores.faults.seen
        if not line.startswith(("GET", "HEAD"))
    ]
    seen = [
        (method, "mark" if "bundle.json" in line else "file")
        for method, line in changes
        if "bundle" in line
    ]
    if url.startswith("s3"):  # the names of uploads to gs:// are in their content
        assert seen == [
            *(("DELETE", "mark"), ("PUT", "file"), ("PUT", "mark")),
            *(("DELETE", "mark"), ("DELETE", "file")),
        ]
    assert objects(url) == set()


def test_after_a_kill_the_next_command_uploads_the_rest(url, tmp_path, caplog):
    with mirrors.session(always):
        write(open_in(tmp_path / "a", url), {"x": "1", "y": "1"})
    folder = tmp_path / "a" / url.replace("://", "/")
    write(folder, {"x": "2", "z": "1"})  # as a killed process leaves them
    with mirrors.session(always):
        open_in(tmp_path / "a", url)
    assert "2 files that an earlier command did not upload" in caplog.text
    assert objects(url) == {"x", "y", "z"}
    write(folder, {"x": "3", "w": "1"})
    with mirrors.session(always):  # meanwhile another machine writes
        write(open_in(tmp_path / "b", url), {"x": "4"})
    with mirrors.session(always):
        assert read(open_in(tmp_path / "a", url)) == {"x": "4", "y": "1", "z": "1"}
    assert (
        "2 files of an earlier command on this machine dropped (w first)" in caplog.text
    )


def test_there_is_one_writer_at_a_time(url, tmp_path, monkeypatch):
    first = mirror.Mirror(url, "--workdir", tmp_path / "a")
    second = mirror.Mirror(url, "--workdir", tmp_path / "b")
    first.claim()
    with pytest.raises(UserError, match="is being written by process"):
        second.claim()
    # The first is suspended for longer than a heartbeat may take.
    monkeypatch.setattr(store_lock.holders.Holder, "is_visible", lambda self: False)
    monkeypatch.setattr(locks, "STALE_SECS", -1.0)
    second.claim()
    write(tmp_path / "a", {"x": "1"})
    with pytest.raises(UserError, match="was taken over by process"):
        first.push()
    assert objects(url) == set()
    second.close()
    third = mirror.Mirror(url, "--workdir", tmp_path / "c")
    third.claim()
    third.close()


def test_faults_while_files_are_fetched_and_uploaded(url, tmp_path, stores, caplog):
    stores.faults.add("throttle", 2)
    with mirrors.session(always):
        write(open_in(tmp_path / "a", url), RUN)
        stores.faults.add("cut", 1, "POST" if url.startswith("gs") else "PUT")
    assert objects(url) == RUN.keys()
    stores.faults.add("cut", 2, "GET")
    with mirrors.session(always):
        there = open_in(tmp_path / "b", url)
        object_store.ObjectStore(url, "url").delete(["checkpoints/2/params/b"])
        mirrors.complete(there / "checkpoints/2")
    assert "checkpoints/2/params/b has vanished from the store" in caplog.text
    assert read(there)["checkpoints/2/params/a"] == "1"


def test_what_cannot_be_uploaded_stays_and_is_named(url, tmp_path, stores):
    session = mirrors.session(always)
    session.__enter__()
    folder = open_in(tmp_path, url)
    write(folder, {"x": "1"})
    stores.faults.add("deny", 200)
    with pytest.raises(UserError, match=r"refuses access .* are in "):
        session.__exit__(None, None, None)
    stores.faults.clear()
    assert read(folder) == {"x": "1"}
    with mirrors.session(always):
        open_in(tmp_path, url)
    assert objects(url) == {"x"}


def test_one_object_and_places_within_each_other(url, tmp_path):
    with mirrors.session(always):
        write(open_in(tmp_path / "a", url), {"in/x.txt": "1"})
        inner = mirrors.local(f"{url}/in", "--base", tmp_path / "a")
        assert inner.is_relative_to(open_in(tmp_path / "a", url))
    with mirrors.session(always):
        one = open_in(tmp_path / "b", f"{url}/in/x.txt")
        assert one.read_text() == "1"
        out = open_in(tmp_path / "b", f"{url}/out.json")
        out.write_text(json.dumps(1))
    assert objects(url) == {"in/x.txt", "out.json"}
    assert os.listdir(tmp_path / "b")


def test_a_checkpoint_that_is_deleted_meanwhile_leaves_nothing(
    url, tmp_path, monkeypatch
):
    send = object_store.ObjectStore.upload

    def upload(self, source: pathlib.Path, name: str) -> None:
        send(self, source, name)
        shutil.rmtree(source.parents[1], ignore_errors=True)

    with mirrors.session(always):
        folder = open_in(tmp_path / "a", url)
        write(folder, {f"checkpoints/1/{name}": text for name, text in STEP.items()})
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(object_store.ObjectStore, "upload", upload)
            mirrors._mirrors[url].push()
    assert objects(url) == set()


def test_a_command_that_reads_changes_nothing_of_a_live_one(url, tmp_path):
    writer = mirror.Mirror(url, "--workdir", tmp_path / "a")
    writer.pull()
    writer.claim()
    write(tmp_path / "a", RUN)
    writer.push()
    store = object_store.ObjectStore(url, "url")
    # As while an upload goes on: the object is newer than what the mirror noted.
    store.write("metrics.jsonl", b"row\n")
    write(
        tmp_path / "a", {"metrics.jsonl": "row\nrow\n", "checkpoints/3/params/a": "1"}
    )
    before = read(tmp_path / "a")
    mirror.Mirror(url, "--base", tmp_path / "a").pull()
    assert read(tmp_path / "a") == before
    # On another machine parts without a manifest are read, and not deleted.
    store.write("checkpoints/4/params/a", b"1")
    with mirrors.session(always):
        mirrors.local(url, "folder", tmp_path / "b")
    assert "checkpoints/4/params/a" in objects(url)
    writer.close()


def test_names_that_leave_the_folder_are_refused(url, tmp_path):
    object_store.ObjectStore(url, "url").write("a//b", b"1")
    with pytest.raises(UserError, match="a//b is not a file name"):
        mirrors.local(url, "--base", tmp_path / "x")
    with pytest.raises(UserError, match="has an empty part, or one with dots"):
        mirrors.local(f"{url}/../x", "--base", tmp_path / "x")
