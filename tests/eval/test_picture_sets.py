"""Sets of pictures: by index, in batches, with their captions."""

from __future__ import annotations

import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from glide_jax import errors
from glide_jax.data import picture_files
from glide_jax.eval import feature_cache, picture_sets, reference_files
from tests.eval import stand_in

SHOWN = stand_in.noise_pictures(5)
NAMES = list("abcde")


def write_folder(folder, names=NAMES):
    folder.mkdir()
    for name, pixels in zip(names, SHOWN, strict=True):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def test_a_sample_batch_is_read_by_index(tmp_path):
    np.savez(tmp_path / "s.npz", arr_0=SHOWN)
    saved = picture_sets.open_saved(str(tmp_path / "s.npz"), NAMES)
    assert (saved.count, saved.px, saved.has_captions) == (5, 8, True)
    shown = saved.read(3, 9)
    np.testing.assert_array_equal(shown.pixels, SHOWN[3:])
    assert shown.indices.tolist() == [3, 4]
    assert shown.captions == ["d", "e"]


def test_a_folder_goes_by_names_or_by_its_record(tmp_path):
    folder = write_folder(tmp_path / "f")
    found = picture_sets.open_saved(str(folder), None)
    assert not found.has_captions
    assert found.read(0, 5).captions is None
    np.testing.assert_array_equal(found.read(1, 3).pixels, SHOWN[1:3])
    entries = [{"file": f"{name}.png", "prompt": f"a {name}"} for name in "db"]
    (folder / "samples.json").write_text(json.dumps({"images": entries}))
    listed = picture_sets.open_saved(str(folder), None)
    np.testing.assert_array_equal(listed.read(0, 2).pixels, SHOWN[[3, 1]])
    assert listed.read(0, 2).captions == ["a d", "a b"]


def test_a_folder_takes_every_suffix_in_any_case_and_refuses_a_broken_picture(tmp_path):
    suffixes = sorted(picture_files.SUFFIXES)
    for suffix in suffixes:
        Image.fromarray(SHOWN[0]).save(tmp_path / f"{suffix[1:]}{suffix.upper()}")
    found = picture_sets.open_saved(str(tmp_path), None)
    assert found.count == len(suffixes)
    assert found.read(0, found.count).pixels.shape == (found.count, 8, 8, 3)
    (tmp_path / "png.PNG").write_bytes(b"no picture")
    with pytest.raises(errors.UserError, match=r"png\.PNG cannot be used"):
        found.read(0, found.count)


def test_a_source_is_cropped_to_the_size_and_leaves_out_what_is_broken(tmp_path):
    folder = write_folder(tmp_path / "f")
    for name in NAMES:
        (folder / f"{name}.txt").write_text(f"a {name}")
    (folder / "c.png").write_bytes(b"no picture")
    found = picture_sets.open_saved(f"folder:{folder}", None, px=8)
    assert (found.count, found.px) == (5, 8)
    shown = found.read(1, 4)
    assert shown.indices.tolist() == [1, 3]
    assert shown.captions == ["a b", "a d"]
    np.testing.assert_array_equal(shown.pixels, SHOWN[[1, 3]])
    assert found.read(2, 3).pixels.shape == (0, 8, 8, 3)
    assert picture_sets.open_saved(f"folder:{folder}", None, px=8, most=2).count == 2
    # Captions are asked for of every record, and the next is taken for a bad one.
    asked = picture_sets.captions_of(f"folder:{folder}", 7)
    assert len(asked) == 7
    assert set(asked) == {"a a", "a b", "a c", "a d", "a e"}


def write_uncaptioned(folder, kind):
    """Five pictures without captions, as --source names them."""
    if kind == "npz":
        np.savez(folder / "s.npz", arr_0=SHOWN)
        return str(folder / "s.npz")
    if kind == "samples":
        made = write_folder(folder / "f")
        entries = [{"file": f"{name}.png", "prompt": {"a": 1}} for name in NAMES]
        (made / "samples.json").write_text(json.dumps({"images": entries}))
        return str(made)
    made = write_folder(folder / "f")
    if kind == "webdataset":
        with tarfile.open(folder / "s.tar", "w") as tar:
            for path in sorted(made.iterdir()):
                tar.add(path, path.name)
        return f"webdataset:{folder / 's.tar'}"
    return f"folder:{made}" if kind == "folder" else str(made)


@pytest.mark.parametrize("kind", ["npz", "samples", "webdataset", "folder", "path"])
def test_pictures_without_captions_are_a_reference(tmp_path, kind, monkeypatch):
    monkeypatch.setenv("GLIDE_JAX_CACHE", str(tmp_path / "cache"))
    spec = write_uncaptioned(tmp_path, kind)
    found = reference_files.open_pictures(spec, 8)
    shown = found.read(0, 9)
    np.testing.assert_array_equal(shown.pixels, SHOWN)
    assert not found.has_captions
    assert shown.captions is None
    first = reference_files.open_pictures(spec, 8, 3)
    assert first.count == first.record["count"] == 3
    assert first.record != found.record


def test_a_captioned_source_stays_one_where_captions_are_needed(tmp_path):
    spec = write_uncaptioned(tmp_path, "folder")
    with pytest.raises(errors.UserError, match="caption"):
        picture_sets.open_saved(spec, None, px=8)


def test_a_folder_of_pictures_of_any_shape_is_a_reference(tmp_path):
    folder = tmp_path / "f"
    (folder / "deeper").mkdir(parents=True)
    for name, size in (("a", (20, 11)), ("b", (8, 8)), ("deeper/c", (9, 40))):
        Image.new("RGB", size, (1, 2, 3)).save(folder / f"{name}.png")
    (folder / "b.txt").write_text("one of them has a caption")
    shown = reference_files.open_pictures(str(folder), 8).read(0, 9)
    assert shown.pixels.shape == (3, 8, 8, 3)


@pytest.mark.parametrize(
    ("spec", "px", "named"),
    [
        ("s.npz", 16, "give --px=8"),
        ("samples", 16, "give --px=8"),
        ("absent", 8, "--source=absent is not a folder"),
        ("absent.npz", 8, "absent.npz"),
        ("a.png", 8, "--source=a.png is not a folder"),
        ("https://bucket/photos", 8, "--source=https://bucket/photos is a URL"),
    ],
)
def test_what_is_no_reference_is_refused(tmp_path, monkeypatch, spec, px, named):
    monkeypatch.chdir(tmp_path)
    np.savez("s.npz", arr_0=SHOWN)
    folder = write_folder(tmp_path / "samples")
    entries = [{"file": f"{name}.png", "prompt": name} for name in NAMES]
    (folder / "samples.json").write_text(json.dumps({"images": entries}))
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(errors.UserError, match=named) as caught:
        reference_files.open_pictures(spec, px)
    assert "\n" not in str(caught.value)


def test_captions_are_spread_over_a_source():
    few = picture_sets.captions_of("shapes:quickstart", 16)
    assert few == picture_sets.captions_of("shapes:quickstart", 16)
    assert len(set(few)) > 4


@pytest.mark.parametrize("kind", ["archive", "folder", "source", "shards"])
def test_other_pictures_of_the_same_name_are_not_mixed_with_those_seen(tmp_path, kind):
    def open_pictures(first):
        shown = np.roll(SHOWN, -first, axis=0)
        if kind == "archive":
            np.savez(tmp_path / "s.npz", arr_0=shown)
            return picture_sets.open_saved(str(tmp_path / "s.npz"), None)
        folder = tmp_path / "f"
        folder.mkdir(exist_ok=True)
        for name, pixels in zip(NAMES, shown, strict=True):
            Image.fromarray(pixels).save(folder / f"{name}.png")
            (folder / f"{name}.txt").write_text(name)
        if kind == "folder":
            return picture_sets.open_saved(str(folder), None)
        if kind == "source":
            return picture_sets.open_saved(f"folder:{folder}", None, px=8)
        with tarfile.open(tmp_path / "s.tar", "w") as shard:
            for path in sorted(folder.iterdir()):
                shard.add(path, path.name)
        return picture_sets.open_saved(f"webdataset:{tmp_path / 's.tar'}", None, px=8)

    feature_cache.FeatureCache(tmp_path / "parts", open_pictures(0).record)
    with pytest.raises(errors.UserError, match=r"features of (pixels|files)="):
        feature_cache.FeatureCache(tmp_path / "parts", open_pictures(1).record)


def test_prompts_that_do_not_match_the_pictures_are_refused(tmp_path):
    np.savez(tmp_path / "s.npz", arr_0=SHOWN)
    folder = write_folder(tmp_path / "f")
    for spec in (tmp_path / "s.npz", folder):
        with pytest.raises(errors.UserError, match=r"has 5 pictures and .* 3 prompts"):
            picture_sets.open_saved(str(spec), ["a", "b", "c"])
    with pytest.raises(errors.UserError, match="has its own captions"):
        picture_sets.open_saved(f"folder:{folder}", ["a"], px=8)


def test_what_holds_no_pictures_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "float.npz", arr_0=SHOWN / 255)
    folder = write_folder(tmp_path / "f")
    Image.fromarray(SHOWN[0, :4]).save(folder / "b.png")
    for spec, options, reason in (
        (tmp_path / "empty", {}, "has no pictures"),
        (tmp_path / "float.npz", {}, "arr_0 is float64"),
        ("nothing", {}, "is not a .npz file, a folder or"),
        (folder, {"px": 8}, "leave them out"),
        (f"folder:{folder}", {}, "add --px"),
    ):
        with pytest.raises(errors.UserError, match=reason):
            picture_sets.open_saved(str(spec), None, **options)
    with pytest.raises(errors.UserError, match="8 x 4, the first picture 8 high"):
        picture_sets.open_saved(str(folder), None).read(0, 5)
