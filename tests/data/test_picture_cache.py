"""Cached pictures are those that decoding gives, whatever happens to their files."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from glide_jax.data import picture_cache, schema, sources, transforms
from tests.data import streams

PX = 16
SETTINGS = {
    "image_px": PX,
    "text_context": 8,
    "global_batch_size": 4,
    "seed": 3,
    "low_res_px": 4,
    "low_res_corruption": "noise",
    "inpaint": True,
    "flip_prob": 0.5,
}


def photo(seed: int, format_: str = "JPEG") -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (50, 70, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, format_)
    return stream.getvalue()


def load(cache: picture_cache.PictureCache | None, content: bytes) -> np.ndarray:
    return transforms.load_image(schema.Example(content, "a", "key"), PX, cache)


def unused() -> np.ndarray:
    raise AssertionError("decoded again")


@pytest.fixture
def cache(tmp_path):
    return picture_cache.PictureCache(tmp_path / "pictures", PX)


@pytest.fixture
def photos(tmp_path) -> str:
    """Six captioned photos, of which one is broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(6):
        content = photo(i, "JPEG" if i % 2 else "PNG")
        (folder / f"{i}.jpg").write_bytes(content[: 90 if i == 4 else None])
        (folder / f"{i}.txt").write_text(f"photo {i}")
    return f"folder:{folder}"


def batches(photos, tokenizer, cache=None, **settings) -> list[schema.Batch]:
    made = streams.make_batches(
        sources.open_source(photos),
        tokenizer,
        cache=cache,
        **{**SETTINGS, **settings},
    )
    return list(itertools.islice(made, 6))


def test_batches_are_the_same_bit_for_bit(photos, tokenizer, cache):
    want = batches(photos, tokenizer)
    for settings in ({}, {}, {"num_threads": 4}):
        for batch, expected in zip(
            batches(photos, tokenizer, cache, **settings), want, strict=True
        ):
            assert batch.keys() == expected.keys()
            for name, values in expected.items():
                np.testing.assert_array_equal(batch[name], values, err_msg=name)
    assert len(list(cache.folder.rglob("*.rgb"))) == 5  # not the broken one


def test_a_picture_is_decoded_once_and_keeps_its_pixels(cache):
    content = photo(0)
    first = load(cache, content)
    np.testing.assert_array_equal(first, load(None, content))
    again = cache.load(content, unused)
    np.testing.assert_array_equal(again, (first + 1) * 127.5)
    assert picture_cache.bytes_of(1, PX) == sum(
        path.stat().st_size for path in cache.folder.rglob("*.rgb")
    )


def test_a_changed_file_and_another_size_are_decoded_again(cache, tmp_path):
    for seed in (0, 1):
        np.testing.assert_array_equal(load(cache, photo(seed)), load(None, photo(seed)))
    smaller = picture_cache.PictureCache(tmp_path / "pictures", PX // 2)
    with pytest.raises(AssertionError, match="decoded again"):
        smaller.load(photo(0), unused)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:100], lambda b: bytes(len(b)), lambda b: b""]
)
def test_a_damaged_file_of_the_cache_is_replaced(cache, damage):
    want = load(cache, photo(0))
    (path,) = cache.folder.rglob("*.rgb")
    path.write_bytes(damage(path.read_bytes()))
    np.testing.assert_array_equal(load(cache, photo(0)), want)
    cache.load(photo(0), unused)


def test_what_cannot_be_decoded_is_not_kept(cache):
    for _ in range(2):
        with pytest.raises(schema.BadRecordError):
            load(cache, b"no picture")
    assert not cache.folder.exists()


def test_a_folder_that_cannot_be_written_costs_one_line(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = picture_cache.PictureCache(tmp_path / "file", PX)
    for seed in range(3):
        np.testing.assert_array_equal(load(cache, photo(seed)), load(None, photo(seed)))
    assert len(caplog.records) == 1
    assert "cannot be written" in caplog.text


def test_pruning_keeps_the_pictures_used_last(cache, tmp_path):
    for seed in range(4):
        load(cache, photo(seed))
    size = picture_cache.bytes_of(1, PX)
    for path in cache.folder.rglob("*.rgb"):
        os.utime(path, (0, 0))
    load(cache, photo(2))  # marks it as used
    directory = tmp_path / "pictures"
    (directory / "notes.rgb").write_text("another file")
    assert picture_cache.prune(directory, 4 * size) == (0, 4, 4 * size)
    assert picture_cache.prune(directory, 2 * size - 1) == (3, 1, size)
    cache.load(photo(2), lambda: pytest.fail("decoded again"))
    assert picture_cache.prune(directory, 0) == (1, 0, 0)
    assert (directory / "notes.rgb").exists()
    np.testing.assert_array_equal(load(cache, photo(2)), load(None, photo(2)))


def fill(folder: pathlib.Path, turns: int) -> None:
    cache = picture_cache.PictureCache(folder, PX)
    for turn in range(turns):
        content = photo(turn % 5)
        np.testing.assert_array_equal(load(cache, content), load(None, content))


def test_processes_fill_one_cache_together(cache, tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=fill, args=(tmp_path / "pictures", 40)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    names = [path.name for path in cache.folder.rglob("*") if path.is_file()]
    assert len(names) == 5
    assert all(name.endswith(".rgb") for name in names)
