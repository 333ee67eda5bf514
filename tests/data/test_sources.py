"""Specs open the right source, and a wrong one says what would be right."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds

from glide_jax import errors
from glide_jax.data import (
    builders,
    retrying_reads,
    schema,
    shapes_world,
    source_kinds,
    sources,
    tar_shards,
)
from tests import fake_devices
from tests.data import conftest


@pytest.mark.parametrize(
    "spec", ["", "shapes", "shapes:", "tape:x", "shapes:huge", "folder:/no/such/folder"]
)
def test_a_wrong_spec_is_a_user_error(spec):
    with pytest.raises(errors.UserError):
        sources.open_source(spec)


def test_the_split_is_filled_into_a_spec(tmp_path, write_tar, pictures):
    for split, count in (("train", 3), ("val", 2)):
        write_tar(tmp_path / f"x-{split}.tar", pictures(count))
    spec = f"webdataset:{tmp_path}/x-{{split}}.tar"
    assert len(sources.open_source(spec)) == 3
    assert len(sources.open_source(spec, split="val")) == 2


def test_one_source_alone_is_no_mixture():
    source = sources.open_mixture(("shapes:full",), (1.0,), split="held_out")
    assert source == shapes_world.ShapesWorld("full", "held_out")


def test_a_folder_reads_captions_beside_its_pictures(tmp_path, pictures):
    for name, content in pictures(3).items():
        place = tmp_path / ("sub" if name.startswith("002") else "") / name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(content)
    source = sources.open_source(f"folder:{tmp_path}")
    (tmp_path / "001.txt").unlink()
    assert len(source) == 3
    assert source[0].caption == "a picture of shade 0"
    assert source[2].key == "sub/002.png"
    with pytest.raises(schema.BadRecordError, match=r"001\.png: missing caption"):
        source[1]


def test_a_folder_without_captions_or_pictures_is_a_user_error(tmp_path, pictures):
    with pytest.raises(errors.UserError, match="contains no picture"):
        sources.open_source(f"folder:{tmp_path}")
    (tmp_path / "000.png").write_bytes(pictures(1)["000.png"])
    with pytest.raises(errors.UserError, match=r"caption of 000\.png to 000\.txt"):
        sources.open_source(f"folder:{tmp_path}")


def test_files_of_a_folder_that_cannot_be_read_are_bad_records(
    tmp_path, pictures, monkeypatch
):
    monkeypatch.setattr(retrying_reads, "WAITS_SECS", ())
    for name, content in pictures(5).items():
        (tmp_path / name).write_bytes(content)
    source = sources.open_source(f"folder:{tmp_path}")
    (tmp_path / "000.png").unlink()
    for name, make in (("001.png", os.mkfifo), ("002.txt", os.mkdir)):
        (tmp_path / name).unlink()
        make(tmp_path / name)
    os.truncate(tmp_path / "003.txt", 100_000_000)
    os.truncate(tmp_path / "004.png", 1 << 40)
    found = []
    for index in range(5):
        with pytest.raises(schema.BadRecordError) as caught:
            source[index]
        found.append(caught.value.kind)
    assert found == [
        "vanished file",
        "unreadable file",
        "unreadable file",
        "huge caption",
        "huge image",
    ]


def test_a_folder_that_is_away_for_a_moment_was_never_gone(
    tmp_path, pictures, monkeypatch
):
    monkeypatch.setattr(retrying_reads, "WAITS_SECS", (0.05,) * 100)
    place = tmp_path / "pictures"
    place.mkdir()
    for name, content in pictures(2).items():
        (place / name).write_bytes(content)
    source = sources.open_source(f"folder:{place}")
    (place / "001.txt").unlink()
    away = place.rename(tmp_path / "away")
    timer = threading.Timer(0.2, away.rename, [place])
    timer.start()
    assert source[0].caption == "a picture of shade 0"
    timer.join()
    # That one caption is missing is nothing to wait for.
    with monkeypatch.context() as patched:
        patched.setattr(retrying_reads.time, "sleep", None)
        with pytest.raises(schema.BadRecordError, match="missing caption"):
            source[1]
    monkeypatch.setattr(retrying_reads, "WAITS_SECS", ())
    place.rename(away)
    with pytest.raises(schema.BadRecordError, match="vanished file"):
        source[1]


@pytest.fixture
def records(tmp_path):
    """The folder of twelve drawn records, and their one shard."""
    world = shapes_world.ShapesWorld(size_px=16, length=12)
    place = builders.build_array_records(world, tmp_path, "drawn")
    (shard,) = place.glob("*array_record*")
    return place, shard


def test_a_record_shard_that_is_damaged_changes_or_vanishes_gives_bad_records(
    records, monkeypatch
):
    monkeypatch.setattr(retrying_reads, "WAITS_SECS", ())
    place, shard = records
    whole = shard.read_bytes()
    # Where records stand, past the first of the chunks.
    used = [i for i in range(0, len(whole), 64) if any(whole[i : i + 64])]
    at = used[len(used) // 2]
    shard.write_bytes(whole[:at] + b"damage" + whole[at + 6 :])

    def kinds(source: schema.Source) -> set[str]:
        found = set()
        for index in range(len(source)):
            try:
                source[index]
                found.add("good")
            except schema.BadRecordError as bad:
                found.add(bad.kind)
        return found

    assert "broken record" in kinds(sources.open_source(f"tfds:{place}"))
    shard.write_bytes(whole[:40_000])
    assert kinds(sources.open_source(f"tfds:{place}")) == {"broken record"}
    shard.write_bytes(whole)
    source = sources.open_source(f"tfds:{place}")
    assert kinds(source) == {"good"}
    shard.write_bytes(whole + bytes(64))
    assert kinds(source) == {"changed shard"}
    shard.unlink()
    assert kinds(source) == {"vanished shard"}
    with pytest.raises(errors.UserError, match="a shard of split 'train'"):
        sources.open_source(f"tfds:{place}")


def test_a_data_set_cannot_have_modules_imported(records, tmp_path, monkeypatch):
    place, _ = records
    (tmp_path / "trap.py").write_text("raise SystemExit('run')")
    monkeypatch.syspath_prepend(tmp_path)
    described = (place / "features.json").read_text()
    name = "tensorflow_datasets.core.features.text_feature.Text"
    assert name in described
    (place / "features.json").write_text(described.replace(name, "trap.Text"))
    with pytest.raises(errors.UserError, match=r"names the class 'trap\.Text'"):
        sources.open_source(f"tfds:{place}")


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
def test_a_data_set_with_a_damaged_description_is_a_user_error(records, name):
    place, _ = records
    (place / name).write_text('{"')
    with pytest.raises(errors.UserError, match=r"copy (it|the data set) again"):
        sources.open_source(f"tfds:{place}")


def test_sampled_captions_leave_out_bad_records(tmp_path, write_tar, pictures):
    members = pictures(4)
    del members["002.txt"]
    members["003.txt"] = b""
    write_tar(tmp_path / "a.tar", members)
    captions = sources.sample_captions(tar_shards.TarShards(f"{tmp_path}/a.tar"), 10)
    assert sorted(captions) == ["a picture of shade 0", "a picture of shade 1"]


def test_captions_that_cannot_be_used_are_counted_and_the_first_named(
    tmp_path, write_tar, pictures, caplog
):
    members = pictures(5)
    members |= {f"{i:03d}.txt": "grün".encode("latin-1") for i in range(4)}
    members["004.txt"] = b" \n"
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(errors.UserError) as caught:
        sources.sample_captions(tar_shards.TarShards(f"{tmp_path}/a.tar"), 10)
    message = str(caught.value)
    assert f"webdataset:{tmp_path}/a.tar: 0 of 5 records" in message
    assert "broken caption (not UTF-8)" in message
    members["004.txt"] = b"usable"
    write_tar(tmp_path / "b.tar", members)
    source = tar_shards.TarShards(f"{tmp_path}/b.tar")
    assert sources.sample_captions(source, 10) == ["usable"]
    assert "1 of 5 records have a usable caption" in caplog.text
    assert caplog.text.count("not UTF-8") == sources.NAMED


def test_array_records_hold_what_the_source_held(tmp_path, write_tar, pictures):
    members = pictures(6)
    write_tar(tmp_path / "a.tar", members)
    source = tar_shards.TarShards(f"{tmp_path}/a.tar")
    place = builders.build_array_records(source, tmp_path / "out", "grays")
    copy = sources.open_source(f"tfds:{place}")
    assert len(copy) == 6
    held = {copy[i].caption: copy[i].image for i in range(6)}
    want = {source[i].caption: source[i].image for i in range(6)}
    assert held == want
    assert len(sources.open_source(f"tfds:{place}", split="train[:50%]")) == 3


def test_a_tfds_spec_chooses_its_split(tmp_path):
    world = shapes_world.ShapesWorld(size_px=16, length=4)
    place = builders.build_array_records(world, tmp_path, "four")
    for split, count in (
        ("train", 4),
        ("train[:25%]", 1),
        ("train[:25%]+train[75%:]", 2),
    ):
        spec = f"tfds:{place}?split={split}"
        assert len(sources.open_source(spec, split="validation")) == count


def test_a_split_is_added_to_a_data_set_of_ours_and_never_replaced(tmp_path):
    train, more = (shapes_world.ShapesWorld(size_px=16, length=n) for n in (3, 2))
    place = builders.build_array_records(train, tmp_path, "both")
    added = builders.build_array_records(more, tmp_path, "both", split="validation")
    assert added == place
    for split, count in (("train", 3), ("validation", 2)):
        source = sources.open_source(f"tfds:{place}", split=split)
        assert len(source) == count
        assert {source[i].caption for i in range(count)} == {
            train[i].caption for i in range(count)
        }
    with pytest.raises(errors.UserError, match="has split validation"):
        builders.build_array_records(more, tmp_path, "both", split="validation")


def test_work_that_fails_leaves_nothing_and_that_succeeds_only_the_records(
    tmp_path, write_tar, pictures
):
    members = pictures(3)
    write_tar(tmp_path / "good.tar", members)
    write_tar(tmp_path / "bad.tar", {**members, "001.txt": b"\xff"})
    write_tar(tmp_path / "none.tar", dict.fromkeys(members, b"\xff"))
    good, bad, none = (
        tar_shards.TarShards(f"{tmp_path}/{name}.tar")
        for name in ("good", "bad", "none")
    )
    out = tmp_path / "out"
    with pytest.raises(errors.UserError, match="1 of 2 records"):
        builders.build_array_records(bad, out, "set", max_bad_frac=0.0)
    with pytest.raises(errors.UserError, match="no usable record"):
        builders.build_array_records(none, out, "set", max_bad_frac=1.0)
    assert list(out.iterdir()) == []
    builders.build_array_records(good, out, "set")
    assert [path.name for path in out.iterdir()] == ["set"]


def test_drawn_pictures_become_array_records_too(tmp_path):
    world = shapes_world.ShapesWorld(size_px=16, length=3)
    place = builders.build_array_records(world, tmp_path, "drawn")
    copy = sources.open_source(f"tfds:{place}")
    assert {copy[i].caption for i in range(3)} == {world[i].caption for i in range(3)}


def test_records_with_an_empty_caption_are_left_out_of_array_records_or_stop_the_work(
    tmp_path, write_tar, pictures
):
    members = pictures(4)
    members["002.txt"] = b""
    write_tar(tmp_path / "a.tar", members)
    source = tar_shards.TarShards(f"{tmp_path}/a.tar")
    place = builders.build_array_records(source, tmp_path / "out", "some")
    assert len(sources.open_source(f"tfds:{place}")) == 3
    with pytest.raises(errors.UserError, match=r"a\.tar:002"):
        builders.build_array_records(source, tmp_path, "none", max_bad_frac=0.0)


def test_a_data_set_name_that_is_taken_or_wrong_is_a_user_error(tmp_path):
    world = shapes_world.ShapesWorld(size_px=16, length=1)
    (tmp_path / "taken").mkdir()
    for name, word in (("taken", "exists"), ("No-Name", "lower-case")):
        with pytest.raises(errors.UserError, match=word):
            builders.build_array_records(world, tmp_path, name)


class Listed(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Two pictures, each with a list of captions; the second list is empty."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "coco": tfds.features.Sequence(
                {"id": np.int64, "text": tfds.features.Text()}
            ),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, texts in enumerate((["one", "two"], [])):
            image = io.BytesIO(conftest.encoded_picture(i))
            coco = [{"id": 3, "text": text} for text in texts]
            yield i, {"image": image, "captions": texts, "coco": coco}


def test_a_list_of_captions_in_a_data_set_is_used_by_the_policy(tmp_path):
    builder = Listed(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()

    def read(query: str, **settings) -> list[schema.Example]:
        source = sources.open_source(f"tfds:{builder.data_dir}{query}", **settings)
        return sorted((source[i] for i in range(2)), key=lambda e: e.caption)

    for policy, caption in (("", "one"), ("&captions=join", "one two")):
        for feature in ("captions", "coco/text"):
            found = read(f"?caption={feature}{policy}")
            assert [example.caption for example in found] == ["", caption]
    with pytest.raises(schema.BadRecordError, match="parts: id, text"):
        read("?caption=coco")
    assert read("?caption=captions&captions=random")[1].choices == ("one", "two")
    # Only pictures are asked for.
    found = read("", captions_required=False)
    assert [example.caption for example in found] == ["", ""]
    with pytest.raises(errors.UserError, match="captions=last"):
        read("?caption=captions&captions=last")


def test_a_tfds_spec_that_does_not_fit_is_a_user_error(tmp_path):
    world = shapes_world.ShapesWorld(size_px=16, length=1)
    place = builders.build_array_records(world, tmp_path / "out", "one")
    (tmp_path / "empty").mkdir()
    for spec, split, word in (
        (f"{place}?image=jpg", "train", "has no feature jpg"),
        (f"{place}?picture=jpg", "train", "only image, caption, split"),
        (f"{place}", "test", "splits: train"),
        (f"{tmp_path}/empty", "train", "contains 0 data sets"),
        ("no_such_data_set", "train", "a known data set"),
    ):
        with pytest.raises(errors.UserError, match=word):
            sources.open_source(f"tfds:{spec}", split=split)


def test_forms_start_with_their_kind():
    for name in source_kinds.names():
        forms = source_kinds.load(name).FORMS
        assert forms
        assert all(form.startswith(f"{name}:") for form in forms)
        assert all(form in source_kinds.forms() for form in forms)


def test_the_page_of_inputs_describes_every_kind():
    page = (fake_devices.ROOT / "docs" / "inputs.md").read_text()
    assert [name for name in source_kinds.names() if f"`{name}:" not in page] == []


def test_kinds_are_known_without_jax():
    code = (
        "import sys; from glide_jax.data import source_kinds; source_kinds.forms();"
        "print('jax' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(fake_devices.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["False"], done.stderr
