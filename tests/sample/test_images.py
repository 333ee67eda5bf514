"""Pictures in and out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from glide_jax import errors
from glide_jax.sample import images


def test_every_pixel_value_survives_the_way_to_floats_and_back():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    np.testing.assert_array_equal(images.to_pixels(images.from_pixels(pixels)), pixels)


def test_values_out_of_range_are_clipped():
    values = np.array([-9.0, -1.0, 0.0, 1.0, 9.0], np.float32)
    pixels = images.to_pixels(np.tile(values[None, None, :, None], (1, 1, 1, 3)))
    # 127.5 rounds to the even neighbour, as torch and jax round.
    np.testing.assert_array_equal(pixels[0, 0, :, 0], [0, 0, 128, 255, 255])


def test_white_in_a_mask_is_what_is_repainted(tmp_path):
    drawn = np.zeros((4, 6), np.uint8)
    drawn[:, 3:] = 255
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    known = images.read_mask(tmp_path / "mask.png")
    np.testing.assert_array_equal(known, (drawn == 0).astype(np.float32))


def test_a_hole_in_a_picture_is_what_is_repainted_whatever_its_colours(tmp_path):
    picture = np.full((4, 4, 4), 255, np.uint8)
    picture[0, 0, 3] = 0
    Image.fromarray(picture).save(tmp_path / "hole.png")
    known = images.read_mask(tmp_path / "hole.png")
    assert known[0, 0] == 0
    assert known.sum() == 15


def test_a_reduced_mask_knows_only_what_was_wholly_known():
    mask = np.ones((16, 16), np.float32)
    mask[5, 9] = 0
    reduced = images.resize_mask(mask, 8)
    expected = np.ones((8, 8))
    expected[2, 4] = 0
    np.testing.assert_array_equal(reduced, expected)


def test_a_mask_reduced_by_an_uneven_factor_never_pins_a_repainted_pixel():
    mask = np.ones((10, 10), np.float32)
    mask[3, 3] = 0
    reduced = images.resize_mask(mask, 4)
    # Source pixel 3 spans [1.2, 1.6] of the four: inside target pixel 1.
    assert reduced[1, 1] == 0
    assert reduced.sum() == 15


def test_an_enlarged_mask_repeats_every_pixel():
    mask = np.eye(2, dtype=np.float32)
    enlarged = images.resize_mask(mask, 8)
    np.testing.assert_array_equal(enlarged, np.kron(mask, np.ones((4, 4))))


def test_a_png_file_gives_back_its_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    images.write_png(tmp_path / "x.png", pixels)
    np.testing.assert_array_equal(images.read_image(tmp_path / "x.png"), pixels)


def test_transparent_parts_of_an_image_come_out_white(tmp_path):
    Image.new("RGBA", (2, 2), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    assert (images.read_image(tmp_path / "clear.png") == 255).all()


def test_a_grid_has_its_pictures_in_rows():
    pixels = np.stack([np.full((2, 2, 3), value, np.uint8) for value in (10, 20, 30)])
    grid = images.make_grid(pixels, 2)
    assert grid.shape == (6, 6, 3)
    assert [grid[0, 0, 0], grid[0, 4, 0], grid[4, 0, 0]] == [10, 20, 30]
    assert (grid[4:, 4:] == 255).all()


def test_the_record_is_json_with_versions(tmp_path):
    images.write_sidecar(tmp_path / "r.json", {"prompt": "ein grüner Kreis"})
    record = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert record["prompt"] == "ein grüner Kreis"
    assert {"jax", "glide_jax"} <= record["versions"].keys()


def test_files_that_are_no_pictures_are_refused_by_name(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for name in ("text.png", "absent.png"):
        with pytest.raises(errors.UserError, match=name):
            images.read_image(tmp_path / name)
