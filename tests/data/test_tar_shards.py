"""Tar shards: found, indexed once, read by offset, refused when damaged."""

from __future__ import annotations

import os

import pytest

from glide_jax import cache, errors
from glide_jax.data import schema, sources, tar_shards


@pytest.fixture
def shards(tmp_path, write_tar, pictures):
    """Two shards of four pictures each."""
    members = pictures(8)
    names = sorted(members)
    for shard in range(2):
        part = {name: members[name] for name in names[8 * shard : 8 * shard + 8]}
        write_tar(tmp_path / f"{shard:03d}.tar", part)
    return tmp_path, members


def test_records_come_by_index_over_all_shards(shards):
    folder, members = shards
    source = sources.open_source(f"webdataset:{folder}/{{000..001}}.tar")
    assert len(source) == 8
    for i in (7, 0, 4, 3):
        example = source[i]
        assert example.image == members[f"{i:03d}.png"]
        assert example.caption == f"a picture of shade {i}"
        assert example.key == f"{i // 4:03d}.tar:{i:03d}"
    with pytest.raises(IndexError):
        source[8]


def test_globs_join_by_commas_and_name_each_shard_once(shards):
    folder, _ = shards
    found = tar_shards.expand(f"{folder}/000.tar, {folder}/*.tar")
    assert [path.name for path in found] == ["000.tar", "001.tar"]


def test_the_index_is_read_from_the_cache_until_the_shard_changes(
    shards, write_tar, pictures, monkeypatch
):
    folder, _ = shards
    pattern = f"webdataset:{folder}/000.tar"
    sources.open_source(pattern)
    with monkeypatch.context() as patch:
        patch.setattr(tar_shards, "_walk", None)
        assert len(sources.open_source(pattern)) == 4
    write_tar(folder / "000.tar", pictures(2))
    assert len(sources.open_source(pattern)) == 2


def test_a_damaged_cache_is_made_anew(shards):
    folder, _ = shards
    pattern = f"webdataset:{folder}/000.tar"
    sources.open_source(pattern)
    for file in (cache.folder() / "tar_index").iterdir():
        file.write_bytes(b"\x93NUMPY broken")
    assert sources.open_source(pattern)[1].caption == "a picture of shade 1"


def test_a_cache_that_cannot_be_written_is_done_without(shards, monkeypatch, tmp_path):
    folder, _ = shards
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("GLIDE_JAX_CACHE", str(blocked))
    assert len(sources.open_source(f"webdataset:{folder}/*.tar")) == 8


def test_a_json_caption_stands_in_for_a_missing_text(tmp_path, write_tar, pictures):
    members = pictures(3)
    for i in range(3):
        del members[f"{i:03d}.txt"]
    members["000.json"] = b'{"caption": "from json"}'
    members["001.json"] = b'{"caption": null}'
    write_tar(tmp_path / "a.tar", members)
    source = tar_shards.TarShards(str(tmp_path / "a.tar"))
    assert source[0].caption == "from json"
    for index in (1, 2):
        with pytest.raises(schema.BadRecordError, match="missing caption"):
            source[index]


def test_a_caption_without_picture_and_one_not_utf8_are_bad_records(
    tmp_path, write_tar, pictures
):
    members = pictures(2)
    del members["000.png"]
    members["001.txt"] = b"\xff\xfe\xfa"
    write_tar(tmp_path / "a.tar", members)
    source = tar_shards.TarShards(str(tmp_path / "a.tar"))
    kinds = []
    for index in range(2):
        with pytest.raises(schema.BadRecordError) as caught:
            source[index]
        kinds.append(caught.value.kind)
    assert kinds == ["missing image", "broken caption"]


# Inside the first header, a payload, and a later header (each file takes 1024 bytes).
@pytest.mark.parametrize("cut", [300, 512 + 20, 3 * 1024 + 200])
def test_a_truncated_tar_is_a_user_error(shards, cut):
    folder, _ = shards
    path = folder / "000.tar"
    os.truncate(path, cut)
    with pytest.raises(errors.UserError, match=r"000\.tar is not a whole"):
        sources.open_source(f"webdataset:{folder}/*.tar")


def test_a_damaged_header_is_a_user_error_not_the_end(shards):
    folder, _ = shards
    with (folder / "000.tar").open("r+b") as tar:
        tar.seek(2 * 1024)
        tar.write(b"damage")
    with pytest.raises(errors.UserError, match="a header is cut or damaged"):
        sources.open_source(f"webdataset:{folder}/*.tar")


def test_a_tar_without_end_mark_is_read_with_a_warning(shards, caplog):
    folder, _ = shards
    os.truncate(folder / "000.tar", 4 * 1024)
    assert len(sources.open_source(f"webdataset:{folder}/000.tar")) == 2
    assert "no end mark" in caplog.text


def test_a_file_that_is_no_tar_is_a_user_error(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"hello" * 500)
    with pytest.raises(errors.UserError, match="not a whole, uncompressed tar"):
        sources.open_source(f"webdataset:{tmp_path}/a.tar")


def test_a_tar_without_pictures_is_a_user_error(tmp_path, write_tar):
    write_tar(tmp_path / "a.tar", {"README": b"hello"})
    with pytest.raises(errors.UserError, match="holds no KEY"):
        sources.open_source(f"webdataset:{tmp_path}/a.tar")


@pytest.mark.parametrize("pattern", ["missing-*.tar", "{000..002}.tar", ","])
def test_a_pattern_that_names_a_missing_file_is_a_user_error(shards, pattern):
    folder, _ = shards
    where = pattern if pattern == "," else f"{folder}/{pattern}"
    with pytest.raises(errors.UserError, match="names no file"):
        sources.open_source(f"webdataset:{where}")
