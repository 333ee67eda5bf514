"""Tar shards: found, indexed once, read by offset, as far as they are whole."""

from __future__ import annotations

import functools
import io
import os
import tarfile
import tracemalloc

import pytest

from glide_jax import errors
from glide_jax.data import (
    retrying_reads,
    schema,
    sources,
    tar_headers,
    tar_index,
    tar_paths,
    tar_shards,
)
from glide_jax.runtime import user_cache


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
    found, _ = tar_paths.expand(f"{folder}/000.tar, {folder}/*.tar")
    assert [path.name for path in found] == ["000.tar", "001.tar"]


def test_the_index_is_read_from_the_cache_until_the_shard_changes(
    shards, write_tar, pictures, monkeypatch
):
    folder, _ = shards
    pattern = f"webdataset:{folder}/000.tar"
    sources.open_source(pattern)
    with monkeypatch.context() as patch:
        patch.setattr(tar_index, "_Walk", None)
        assert len(sources.open_source(pattern)) == 4
    write_tar(folder / "000.tar", pictures(2))
    assert len(sources.open_source(pattern)) == 2


def test_a_damaged_cache_is_rebuilt(shards):
    folder, _ = shards
    pattern = f"webdataset:{folder}/000.tar"
    sources.open_source(pattern)
    for file in (user_cache.folder() / "tar_index").iterdir():
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
    with pytest.raises(schema.BadRecordError, match="missing caption"):
        source[1]
    assert source.report.skipped["picture without a caption"] == 1


def test_a_caption_that_is_not_utf8_is_a_bad_record(tmp_path, write_tar, pictures):
    members = pictures(1)
    members["000.txt"] = b"\xff\xfe\xfa"
    write_tar(tmp_path / "a.tar", members)
    assert kinds(tar_shards.TarShards(str(tmp_path / "a.tar"))) == ["broken caption"]


def kinds(source: schema.Source) -> list[str]:
    """What becomes of each record: "good", or the kind of its fault."""
    found = []
    for index in range(len(source)):
        try:
            source[index]
        except schema.BadRecordError as bad:
            found.append(bad.kind)
        else:
            found.append("good")
    return found


# Each file takes 1024 bytes, each record a picture and a text: in a picture, in a text,
# in a picture's header, in a text's, which leaves its picture without one.
@pytest.mark.parametrize(
    ("cut", "want"),
    [
        (2 * 1024 + 512 + 20, ["good", "truncated tar"]),
        (3 * 1024 + 512 + 5, ["good", "truncated tar"]),
        (4 * 1024 + 200, ["good", "good", "truncated tar"]),
        (3 * 1024 + 200, ["good", "truncated tar"]),
    ],
)
def test_of_a_truncated_tar_the_whole_records_are_read(shards, cut, want):
    folder, members = shards
    os.truncate(folder / "000.tar", cut)
    for _ in "walked", "cached":
        source = sources.open_source(f"webdataset:{folder}/000.tar")
        assert kinds(source) == want
        assert source[0].image == members["000.png"]


def test_records_behind_a_damaged_header_are_read(shards, caplog):
    folder, _ = shards
    with (folder / "000.tar").open("r+b") as tar:
        tar.seek(2 * 1024)
        tar.write(b"damage")
    source = sources.open_source(f"webdataset:{folder}/*.tar")
    assert "000.tar is damaged at byte 2048" in caplog.text
    # The picture's header was hit, and its text has no picture.
    assert kinds(source) == ["good", "truncated tar"] + 6 * ["good"]
    assert source.report.skipped["caption file without a picture"] == 1
    assert source[2].caption == "a picture of shade 2"
    with pytest.raises(schema.BadRecordError, match=r"000\.tar:\(damage at byte 2048"):
        source[1]


def test_a_block_of_zeros_amid_a_tar_is_damage_not_the_end(shards):
    folder, _ = shards
    with (folder / "000.tar").open("r+b") as tar:
        tar.seek(2 * 1024)
        tar.write(bytes(512))
    source = sources.open_source(f"webdataset:{folder}/000.tar")
    assert kinds(source).count("good") == 3


@pytest.mark.parametrize(
    "format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_names_of_every_format_are_read_as_tarfile_reads_them(tmp_path, format_):
    names = ["a.txt", "./sub/b.txt", f"{'d' * 90}/{'e' * 60}.txt", "ü.txt"]
    names += [] if format_ == tarfile.USTAR_FORMAT else ["n" * 300 + ".txt"]
    with tarfile.open(tmp_path / "a.tar", "w", format=format_) as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
            info = tarfile.TarInfo(f"{kind}.txt")
            info.type, info.linkname = kind, "l" * 90
            tar.addfile(info)
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 700
            tar.addfile(info, io.BytesIO(bytes(700)))
    with tarfile.open(tmp_path / "a.tar") as tar:
        want = [
            (m.name, m.offset_data, m.size) if m.isreg() else (m.name,)
            for m in tar
            if not m.isdir()
        ]
    descriptor, stamp = retrying_reads.open_file(tmp_path / "a.tar")
    read = functools.partial(retrying_reads.read_at, descriptor)
    assert [*tar_headers.walk(read, stamp.size)] == want
    os.close(descriptor)


def test_a_tar_longer_than_octal_digits_can_say_is_read_on(tmp_path):
    # GNU writes sizes from 8 GiB in base 256; the file is sparse and takes no room.
    size = 9 << 30
    info, last = tarfile.TarInfo("a.png"), tarfile.TarInfo("a.txt")
    info.size = size
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.seek(512 + size)
        file.write(last.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    source = tar_shards.TarShards(str(tmp_path / "a.tar"))
    with pytest.raises(schema.BadRecordError, match="huge image"):
        source[0]
    assert not source.report.skipped.total()


def test_a_caption_of_100_mb_is_never_read(tmp_path, write_tar, pictures):
    members = pictures(2)
    members["001.txt"] = bytes(100_000_000)
    write_tar(tmp_path / "a.tar", members)
    source = tar_shards.TarShards(str(tmp_path / "a.tar"))
    tracemalloc.start()
    assert kinds(source) == ["good", "huge caption"]
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_shard_that_vanishes_or_changes_makes_its_records_bad_until_it_is_back(
    shards, monkeypatch, caplog
):
    monkeypatch.setattr(retrying_reads, "WAITS_SECS", (0.0, 0.0))
    folder, _ = shards
    path = folder / "000.tar"
    source = sources.open_source(f"webdataset:{folder}/*.tar")
    path.rename(folder / "away")
    assert kinds(source) == 4 * ["vanished shard"] + 4 * ["good"]
    assert caplog.text.count("cannot be read") == 1
    assert "does not repeat" in caplog.text
    (folder / "away").rename(path)
    assert kinds(source) == 8 * ["good"]
    before = path.stat()
    os.truncate(path, before.st_size - 512)
    assert kinds(source)[:4] == 4 * ["changed shard"]
    os.truncate(path, before.st_size)
    assert kinds(source)[:4] == 4 * ["changed shard"]  # written to
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert kinds(source)[:4] == 4 * ["good"]


def test_a_pipe_in_place_of_a_tar_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(errors.UserError, match="not a regular file"):
        tar_shards.TarShards(str(tmp_path / "a.tar"))


def test_a_tar_without_end_mark_is_read_with_a_warning(shards, caplog):
    folder, _ = shards
    os.truncate(folder / "000.tar", 4 * 1024)
    assert len(sources.open_source(f"webdataset:{folder}/000.tar")) == 2
    assert "no end mark" in caplog.text


def test_a_file_that_is_no_tar_is_a_user_error(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"hello" * 500)
    with pytest.raises(errors.UserError, match="not an uncompressed tar"):
        sources.open_source(f"webdataset:{tmp_path}/a.tar")


def test_a_tar_without_pictures_is_a_user_error(tmp_path, write_tar):
    write_tar(tmp_path / "a.tar", {"README": b"hello"})
    with pytest.raises(errors.UserError, match=r"0 pictures .* unknown suffix \(1\)"):
        sources.open_source(f"webdataset:{tmp_path}/a.tar")


@pytest.mark.parametrize("pattern", ["missing-*.tar", "{000..002}.tar", ","])
def test_a_pattern_that_names_a_missing_file_is_a_user_error(shards, pattern):
    folder, _ = shards
    where = pattern if pattern == "," else f"{folder}/{pattern}"
    with pytest.raises(errors.UserError, match="webdataset:"):
        sources.open_source(f"webdataset:{where}")
