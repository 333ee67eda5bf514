"""The search for the nearest training pictures does not depend on batches."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from glide_jax import errors
from glide_jax.cli import main
from glide_jax.data import schema
from glide_jax.eval import extractors, neighbours, picture_folder
from glide_jax.runtime import progress
from glide_jax.sample import image_io
from tests.sample.conftest import bundles, models, tokenizer  # noqa: F401

COUNT, PX = 11, 8


class Pictures:
    """Records of random pixels; those of `bad` cannot be read."""

    def __init__(self, pixels, bad=()):
        self._pixels, self._bad = pixels, bad

    def __len__(self):
        return len(self._pixels)

    def __getitem__(self, index):
        if index in self._bad:
            raise schema.BadRecordError("broken image", f"r{index}")
        return schema.Example(self._pixels[index], "a caption", f"r{index}")


def random_pixels(count, seed=0, px=PX):
    return np.random.default_rng(seed).integers(0, 256, (count, px, px, 3), np.uint8)


@pytest.fixture(scope="module")
def clip(bundles):  # noqa: F811
    return extractors.load(f"clip:{bundles['clip']}", batch_size=4)


@pytest.fixture
def samples(tmp_path):
    """Three samples; the second is training picture 7."""
    pixels = random_pixels(3, seed=1)
    pixels[1] = random_pixels(COUNT)[7]
    names = [f"{i:06d}.png" for i in range(3)]
    entries = [
        {"index": i, "file": name, "prompt": f"prompt {name}"}
        for i, name in enumerate(names)
    ]
    folder = tmp_path / "samples"
    image_io.write_all(
        folder, list(zip(names, pixels, strict=True)), {"images": entries}
    )
    return picture_folder.read(str(folder))


def test_a_training_picture_among_the_samples_finds_itself(clip, samples):
    found = neighbours.search(clip, samples, Pictures(random_pixels(COUNT)), count=3)
    first = neighbours.as_json(found, samples)[0]
    assert first["file"] == "000001.png"
    assert (first["nearest"][0]["record"], first["nearest"][0]["index"]) == ("r7", 7)
    # A product of two equal float32 vectors of length 1; programs of two batch sizes.
    assert first["nearest"][0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert first["nearest"][1]["similarity"] < 0.999


def test_the_nearest_are_those_of_all_products_at_once(clip, samples):
    trained = random_pixels(COUNT)
    found = neighbours.search(clip, samples, Pictures(trained), count=4).nearest
    drawn = np.stack([image_io.read_image(sample.file) for sample in samples])
    # Features have length 4, the root of their 16 numbers.
    cosines = clip(drawn).pool @ clip(trained).pool.T / 16
    np.testing.assert_array_equal(found.indices, np.argsort(-cosines)[:, :4])
    np.testing.assert_allclose(found.similarity, -np.sort(-cosines)[:, :4], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_nothing_depends_on_the_batch_size(clip, samples, batch_size):
    one, other = (
        neighbours.search(
            clip, samples, Pictures(random_pixels(COUNT)), count=4, batch_size=size
        ).nearest
        for size in (5, batch_size)
    )
    np.testing.assert_array_equal(one.keys, other.keys)
    np.testing.assert_allclose(one.similarity, other.similarity, atol=1e-5)


def test_of_equally_near_records_the_earlier_comes_first():
    near = neighbours.Nearest(np.eye(2, dtype=np.float32), 2)
    same = np.array([[1.0, 0.0]], np.float32)
    for index in (4, 5, 6):
        near.add(same, [index], [f"r{index}"])
    assert near.indices[0].tolist() == [4, 5]


def test_a_copy_at_another_size_is_found_as_training_would_have_cropped_it(
    clip, tmp_path
):
    large = random_pixels(3, px=32)
    Image.fromarray(large[2]).save(tmp_path / "copy.png")
    sample = picture_folder.Sample(tmp_path / "copy.png", "a copy")
    found = neighbours.search(clip, [sample], Pictures(large), count=1).nearest
    assert found.indices.tolist() == [[2]]
    assert found.similarity[0, 0] == pytest.approx(1, abs=1e-5)


def test_records_that_cannot_be_read_are_left_out_and_counted(clip, samples):
    source = Pictures(random_pixels(COUNT), bad=(0, 1, 2, 7))
    found = neighbours.search(clip, samples, source, count=COUNT, batch_size=3)
    assert (found.searched, found.left_out) == (7, 4)
    for entry in neighbours.as_json(found, samples):
        assert len(entry["nearest"]) == 7
        assert {near["index"] for near in entry["nearest"]} == {3, 4, 5, 6, 8, 9, 10}


def test_a_source_without_a_readable_record_is_refused(clip, samples):
    source = Pictures(random_pixels(2), bad=(0, 1))
    with pytest.raises(errors.UserError, match="none of its 2 records can be read"):
        neighbours.search(clip, samples, source, count=1)


@pytest.fixture
def command(samples, bundles, tmp_path):  # noqa: F811
    """The verb on a folder of pictures."""
    place = tmp_path / "trained"
    place.mkdir()
    for i, pixels in enumerate(random_pixels(COUNT)):
        Image.fromarray(pixels).save(place / f"{i:02d}.png")
        (place / f"{i:02d}.txt").write_text("a caption")
    flags = [f"--samples={samples[0].file.parent}", f"--source=folder:{place}"]
    flags += [f"--clip={bundles['clip']}", f"--output={tmp_path / 'out'}"]
    return ["evaluate", "neighbours", *flags, "--count=2"]


def test_the_verb_writes_a_sheet_and_every_neighbour(command, tmp_path, capsys):
    assert main.run(command) == 0
    assert "nearest pair: 000001.png and 07.png" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "neighbours.json").read_text())
    assert record["extractor"]["name"] == "noised_clip"
    assert (record["searched"], record["left_out"]) == (COUNT, 0)
    assert [len(entry["nearest"]) for entry in record["samples"]] == [2, 2, 2]
    sheet = image_io.read_image(tmp_path / "out" / "neighbours.png")
    # Samples and two neighbours at 128 px each; a corner pixel enlarged 16-fold.
    corner = random_pixels(COUNT)[7, 0, 0]
    assert int((sheet == corner).all(-1).sum()) >= 2 * 16 * 16


def test_a_signal_ends_the_search_with_nothing_written(
    command, tmp_path, monkeypatch, capsys
):
    whole = progress.ProgressBar.update

    def update(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        whole(*arguments)

    monkeypatch.setattr(progress.ProgressBar, "update", update)
    assert main.run(command) == 42
    assert "stopped by SIGTERM with nothing written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["samples", "source", "clip", "output"])
def test_every_flag_that_is_missing_is_named(command, missing, capsys):
    flags = [flag for flag in command if not flag.startswith(f"--{missing}=")]
    assert main.run(flags) == 2
    assert f"--{missing} is missing" in capsys.readouterr().err


def test_a_bundle_of_another_kind_is_refused_before_anything_is_read(
    command,
    bundles,  # noqa: F811
    capsys,
    tmp_path,
):
    flags = [flag for flag in command if not flag.startswith("--clip=")]
    assert main.run([*flags, f"--clip={bundles['base']}"]) == 2
    assert "the bundle of a noised CLIP" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
