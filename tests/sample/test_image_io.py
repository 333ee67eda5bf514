"""Pictures in and out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from glide_jax import errors
from glide_jax.sample import image_io


def test_every_pixel_value_survives_the_way_to_floats_and_back():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    np.testing.assert_array_equal(
        image_io.to_pixels(image_io.from_pixels(pixels)), pixels
    )


def test_values_out_of_range_are_clipped():
    values = np.array([-9.0, -1.0, 0.0, 1.0, 9.0], np.float32)
    pixels = image_io.to_pixels(np.tile(values[None, None, :, None], (1, 1, 1, 3)))
    # 127.5 rounds to the even neighbour, as torch and jax round.
    np.testing.assert_array_equal(pixels[0, 0, :, 0], [0, 0, 128, 255, 255])


def test_a_reduced_mask_knows_only_what_was_wholly_known():
    mask = np.ones((16, 16), np.float32)
    mask[5, 9] = 0
    reduced = image_io.resize_mask(mask, 8)
    expected = np.ones((8, 8))
    expected[2, 4] = 0
    np.testing.assert_array_equal(reduced, expected)


def test_a_mask_reduced_by_an_uneven_factor_never_pins_a_repainted_pixel():
    mask = np.ones((10, 10), np.float32)
    mask[3, 3] = 0
    reduced = image_io.resize_mask(mask, 4)
    # Source pixel 3 spans [1.2, 1.6] of the four: inside target pixel 1.
    assert reduced[1, 1] == 0
    assert reduced.sum() == 15


def test_an_enlarged_mask_repeats_every_pixel():
    mask = np.eye(2, dtype=np.float32)
    enlarged = image_io.resize_mask(mask, 8)
    np.testing.assert_array_equal(enlarged, np.kron(mask, np.ones((4, 4))))


def test_a_png_file_gives_back_its_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    image_io.write_png(tmp_path / "x.png", pixels)
    np.testing.assert_array_equal(image_io.read_image(tmp_path / "x.png"), pixels)


def test_transparent_parts_of_an_image_come_out_white(tmp_path):
    Image.new("RGBA", (2, 2), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    assert (image_io.read_image(tmp_path / "clear.png") == 255).all()


def test_a_grid_has_its_pictures_in_rows():
    pixels = np.stack([np.full((2, 2, 3), value, np.uint8) for value in (10, 20, 30)])
    grid = image_io.make_grid(pixels, 2)
    assert grid.shape == (6, 6, 3)
    assert [grid[0, 0, 0], grid[0, 4, 0], grid[4, 0, 0]] == [10, 20, 30]
    assert (grid[4:, 4:] == 255).all()


def test_the_record_is_json_with_versions(tmp_path):
    image_io.write_sidecar(tmp_path / "r.json", {"prompt": "ein grüner Kreis"})
    record = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert record["prompt"] == "ein grüner Kreis"
    assert {"jax", "glide_jax"} <= record["versions"].keys()


@pytest.mark.parametrize(
    "prompt", ["a red circle", "ein grüner Kreis", "赤い円 🔴", {"a": 0.7, "円": 0.3}]
)
def test_a_picture_carries_its_prompt_and_settings(prompt, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    entry = {"index": 3, "prompt": prompt, "file": "3.png", "base_file": "3_base.png"}
    record = {
        "verb": "sample",
        "bundles": {"base": {"folder": "/home/someone/base", "digest": "d1"}},
        "settings": {"seed": 7},
        "images": [entry],
    }
    named = [(name, pixels) for name in ("3.png", "3_base.png", "grid.png")]
    image_io.write_all(tmp_path, named, record)
    for name in ("3.png", "3_base.png"):
        with Image.open(tmp_path / name) as picture:
            text = picture.text
        asked = prompt if isinstance(prompt, str) else json.loads(text["prompt"])
        assert asked == prompt
        assert isinstance(prompt, dict) or text["prompt"] == prompt
        found = json.loads(text["glide_jax"])
        assert found.pop("version")
        assert found == {
            "verb": "sample",
            "index": 3,
            "settings": {"seed": 7},
            "bundles": {"base": "d1"},
        }
        np.testing.assert_array_equal(image_io.read_image(tmp_path / name), pixels)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.text == {}


def test_masks_of_pillow_are_known_where_they_are_light():
    drawn = np.zeros((4, 6), np.uint8)
    drawn[:, 3:] = 255
    deep = Image.fromarray(drawn.astype(np.uint16) * 257)
    for mask in (Image.fromarray(drawn), Image.fromarray(drawn > 0), deep):
        np.testing.assert_array_equal(image_io.as_masks(mask), drawn[None] > 0)


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        (Image.new("RGBA", (4, 4), (0, 0, 0, 9)), "transparent pixels"),
        (Image.fromarray(np.eye(4, dtype=np.uint8)), "levels 0 to 1"),
        (Image.new("L", (4, 4), 255), "levels 255 to 255"),
    ],
)
def test_masks_of_pillow_that_say_nothing_are_refused(mask, named):
    with pytest.raises(errors.UserError, match=named):
        image_io.as_masks(mask)
