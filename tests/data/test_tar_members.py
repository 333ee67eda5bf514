"""Every member of a tar is used, or counted by the reason why it is not."""

from __future__ import annotations

import io
import pathlib
import subprocess
import tarfile

import pyarrow
import pyarrow.parquet
import pytest

from glide_jax import errors
from glide_jax.data import schema, source_options, sources, tar_paths, tar_shards
from tests.data import conftest


def write(path: pathlib.Path, *members: tuple[str, bytes | str | None]) -> pathlib.Path:
    """A tar of (name, content); None as content: of a symbolic link."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            content = content.encode() if isinstance(content, str) else content
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "elsewhere"
            else:
                info.size = len(content)
            tar.addfile(info, None if content is None else io.BytesIO(content))
    return path


def picture(shade: int = 0) -> bytes:
    return conftest.encoded_picture(shade)


def records(source: schema.Source) -> dict[str, str]:
    """The caption of each record by its key without the tar's name."""
    examples = [source[index] for index in range(len(source))]
    return {example.key.partition(":")[2]: example.caption for example in examples}


def opened(path: pathlib.Path, query: str = "", **settings) -> tar_shards.TarShards:
    """The source twice: walked, and from the cache, which says the same."""
    where, options = source_options.split_options(f"{path}{query}")
    walked, cached = (
        tar_shards.TarShards(where, options=options, **settings) for _ in range(2)
    )
    assert walked.report == cached.report
    assert records(walked) == records(cached)
    return cached


def skipped(source: tar_shards.TarShards) -> dict[str, int]:
    return dict(+source.report.skipped)


def test_files_of_macos_and_hidden_files_are_no_records(tmp_path):
    path = write(
        tmp_path / "a.tar",
        ("./a.jpg", picture()),
        ("./a.txt", "a"),
        ("./._a.jpg", b"junk"),
        ("._a.txt", b"\xff"),
        ("__MACOSX/a.jpg", b"junk"),
        (".hidden/b.jpg", b"junk"),
        (".c.txt", b"junk"),
        ("../d.jpg", picture()),
        ("../d.txt", "d"),
    )
    source = opened(path)
    assert records(source) == {"a": "a", "../d": "d"}
    assert skipped(source) == {"AppleDouble file": 3, "hidden file": 2}


def test_links_unknown_files_and_incomplete_samples_are_counted(tmp_path):
    path = write(
        tmp_path / "a.tar",
        ("a.jpg", picture()),
        ("a.txt", "a"),
        ("a.npy", "x"),
        ("b.jpg", None),
        ("b.txt", "b"),
        ("c.jpg", picture()),
        ("d.json", "{}"),
        ("README", "x"),
    )
    source = opened(path)
    assert records(source) == {"a": "a"}
    assert skipped(source) == {
        "link in a tar": 1,
        "unknown suffix .npy": 1,
        "unknown suffix": 1,
        "caption file without a picture": 1,
        "picture without a caption": 1,
        "JSON file without a picture": 1,
    }
    assert "1 picture with a caption in 1 tar; skipped" in source.report.describe()
    pictures = opened(path, captions_required=False)
    assert records(pictures) == {"a": "a", "c": ""}


def test_of_members_of_one_name_the_last_counts_and_the_others_are_counted(tmp_path):
    members = [
        (f"{i}.{suffix}", picture(i + k) if suffix == "jpg" else f"set {k}")
        for k in (0, 100)
        for i in range(3)
        for suffix in ("jpg", "txt")
    ]
    source = opened(write(tmp_path / "a.tar", *members))
    assert records(source) == {"0": "set 100", "1": "set 100", "2": "set 100"}
    assert source[1].image == picture(101)
    replaced = "member replaced by a later one of the same name"
    assert skipped(source) == {replaced: 6}


def pair(key: str, caption: str) -> list[tuple[str, bytes | str]]:
    return [(f"{key}.jpg", picture()), (f"{key}.txt", caption)]


def test_joined_tars_are_read_on_behind_the_end_mark(tmp_path):
    parts = [
        write(tmp_path / f"{name}.part", *pair(name, name), *pair("same", name))
        for name in "abc"
    ]
    path = tmp_path / "joined.tar"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    # What tar itself reads so.
    listed = subprocess.run(
        ["tar", "-tif", path], capture_output=True, text=True, check=True
    )
    assert len(listed.stdout.split()) == 12
    source = opened(path)
    assert records(source) == {"a": "a", "b": "b", "c": "c", "same": "c"}
    assert "8 members after an end mark read" in source.report.describe()
    assert set(skipped(source)) == {"member replaced by a later one of the same name"}


def test_data_behind_the_end_mark_that_is_no_tar_is_counted(tmp_path):
    path = write(tmp_path / "a.tar", *pair("a", "a"))
    with path.open("ab") as file:
        file.write(b"signature" * 100)
    source = opened(path)
    assert records(source) == {"a": "a"}
    assert skipped(source) == {"data after the end mark that is not a tar": 1}


def test_a_tar_of_zeros_behind_its_end_mark_is_whole(tmp_path):
    path = write(tmp_path / "a.tar", *pair("a", "a"))
    with path.open("ab") as file:
        file.write(bytes(3 << 20))
    assert skipped(opened(path)) == {}


def test_the_mask_of_a_sample_is_not_its_picture(tmp_path):
    path = write(
        tmp_path / "a.tar",
        ("a.seg.png", picture(1)),
        ("a.jpg", picture(2)),
        ("a.txt", "a"),
    )
    source = opened(path)
    assert source[0].image == picture(2)
    assert skipped(source) == {"further picture of a sample": 1}
    assert opened(path, "?image=seg.png")[0].image == picture(1)
    with pytest.raises(errors.UserError, match=r"another extension than png \(2\)"):
        opened(path, "?image=png")


def test_two_pictures_of_a_sample_are_refused_by_name(tmp_path):
    write(tmp_path / "b.tar", *pair("a", "a"), ("a.png", picture()), *pair("b", "b"))
    with pytest.raises(errors.UserError) as caught:
        sources.open_source(f"webdataset:{tmp_path}/?.tar")
    for part in ("b.tar", "a.jpg and a.png", "?image=jpg"):
        assert part in str(caught.value)
    source = sources.open_source(f"webdataset:{tmp_path}/?.tar?image=png")
    assert records(source) == {"a": "a"}


def test_stems_with_dots_are_keys_and_said_so(tmp_path):
    path = write(tmp_path / "a.tar", *pair("p.01", "one"), *pair("p.02", "two"))
    source = opened(path)
    assert records(source) == {"p.01": "one", "p.02": "two"}
    assert "2 keys up to the last dot" in source.report.describe()


def test_captions_come_from_the_file_the_key_or_the_column_that_is_chosen(tmp_path):
    path = write(
        tmp_path / "00.tar",
        *pair("0", "text"),
        ("0.json", '{"caption": "json", "alt": ["x", "y"]}'),
        ("1.jpg", picture()),
        ("1.json", '{"caption": "json", "alt": "z"}'),
        ("2.jpg", picture()),
        ("3.JPG", picture()),
        ("3.CAPTION", "text"),
    )
    assert records(opened(path)) == {"0": "text", "1": "json", "3": "text"}
    assert records(opened(path, "?caption=caption")) == {"0": "json", "1": "json"}
    assert records(opened(path, "?caption=alt")) == {"0": "x", "1": "z"}
    assert records(opened(path, "?caption=txt")) == {"0": "text"}
    source = opened(path, "?caption=alt&captions=random")
    assert source[0].choices == ("x", "y")
    # img2dataset's table beside the tar.
    table = {
        "key": ["0", "1", "2"],
        "caption": ["p0", "p1", "p2"],
        "blip": ["b", "c", None],
    }
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "00.parquet")
    want = {"0": "text", "1": "p1", "2": "p2", "3": "text"}
    assert records(opened(path)) == want
    assert "Parquet" in opened(path).report.describe()
    assert records(opened(path, "?caption=blip")) == {"0": "b", "1": "c"}
    assert records(opened(path, "?caption=txt")) == {"0": "text"}


def test_places_are_expanded_in_natural_order(tmp_path):
    for name in ("a-1", "a-2", "a-10", "b-1", "b-2"):
        write(tmp_path / f"{name}.tar", *pair("x", name))

    def expand(where: str) -> list[str]:
        return [path.stem for path in tar_paths.expand(f"{tmp_path}/{where}")[0]]

    assert expand("a-*.tar") == ["a-1", "a-2", "a-10"]
    assert expand("{a,b}-1.tar") == ["a-1", "b-1"]
    assert expand("{a-{1..2},b-2}.tar") == ["a-1", "a-2", "b-2"]
    assert expand("{b,a}-{2..1}.tar") == ["a-1", "a-2", "b-1", "b-2"]
    assert expand("a-{1,10}{,}.tar") == ["a-1", "a-10"]
    assert expand(f"a-1.tar,{tmp_path}/b-?.tar") == ["a-1", "b-1", "b-2"]
    with pytest.raises(errors.UserError, match=r"matches no file at .*/c-1"):
        expand("{a,c}-1.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.UserError, match="contains no tar"):
        expand("empty")
    (tmp_path / "{a}.tar").symlink_to(tmp_path / "a-1.tar")
    assert expand("{a}.tar") == ["{a}"]


def test_a_tar_is_read_once_where_links_form_a_loop(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "a.tar", *pair("a", "a"))
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    for where in (f"{tmp_path}/**/*.tar", f"{tmp_path}"):
        source = tar_shards.TarShards(where)
        assert len(source) == 1
        assert source.report.skipped.total() >= 1
