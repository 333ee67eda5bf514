"""Which square of a picture is drawn, and what of it comes back."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from glide_jax.diffusion import inpainting
from glide_jax.sample import region


def make_mask(height, width, top, left, bottom, right):
    """True but in a box."""
    known = np.ones((height, width), bool)
    known[top:bottom, left:right] = False
    return known


def make_photo(height, width):
    """A smooth picture with an edge, and grain."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x % 97 + 60, 150 - y // 4, 80 + (x > width // 2) * 60], axis=-1)
    grain = np.random.default_rng(0).integers(-8, 9, (height, width, 1))
    return (smooth + grain).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "box", "square"),
    [
        # Twice the box, around its middle.
        ((300, 400), (100, 150, 140, 170), (120, 80, 80)),
        # At least the model's picture.
        ((300, 400), (100, 150, 104, 154), (136, 86, 32)),
        # Within the picture.
        ((300, 400), (0, 390, 30, 400), (340, 0, 60)),
        # As large as the picture allows.
        ((300, 400), (20, 100, 220, 300), (50, 0, 300)),
        ((200, 200), (10, 10, 120, 120), (0, 0, 200)),
        # Over the border, where nothing else holds the box.
        ((100, 400), (0, 100, 100, 300), (75, -75, 250)),
        ((100, 400), (0, 0, 100, 399), (0, -150, 400)),
        ((20, 30), (5, 5, 9, 9), (0, 0, 20)),
    ],
)
def test_a_square_holds_what_is_unknown_and_stays_inside_if_it_can(size, box, square):
    known = make_mask(*size, *box)
    found = region.around_hole(known, 32)
    assert found == square
    assert (~region.cut_mask(known, found, found.side)).sum() >= (~known).sum()
    picture = make_photo(*size)
    part = region.cut(picture, found)
    assert part.shape == (found.side, found.side, 3)
    # What was cut out goes back to where it was.
    whole = region.paste(0 * picture, known, found, part)
    np.testing.assert_array_equal(whole[~known], picture[~known])
    assert not whole[known].any()


def test_pixels_outside_are_the_nearest_pixel_and_unknown():
    picture, square = make_photo(4, 10), region.around_all(4, 10)
    part = region.cut(picture, square)
    np.testing.assert_array_equal(part[:3], [picture[0]] * 3)
    np.testing.assert_array_equal(part[7:], [picture[-1]] * 3)
    np.testing.assert_array_equal(region.cut_back(part, square, (4, 10)), picture)
    known = region.cut_mask(np.ones((4, 10), bool), square, 10)
    assert known[3:7].all()
    assert not known[:3].any()
    assert not known[7:].any()


@pytest.mark.parametrize("model_px", [16, 60, 64, 100])
def test_known_pixels_are_kept_at_any_resolution(model_px):
    picture, known = make_photo(90, 120), make_mask(90, 120, 20, 30, 50, 60)
    square = region.around_hole(known, 16)
    assert square.side == 60
    drawn = np.full((model_px, model_px, 3), 7, np.uint8)
    result = region.paste(picture, known, square, drawn)
    np.testing.assert_array_equal(result[known], picture[known])
    assert (result[30:40, 40:50] == 7).all()


def test_a_tint_of_what_was_drawn_does_not_show_at_the_seam():
    picture, known = make_photo(400, 500), make_mask(400, 500, 120, 150, 280, 310)
    square = region.around_hole(known, 64)
    part = region.cut(picture, square)
    mask = region.cut_mask(known, square, 64)
    small = np.asarray(Image.fromarray(part).resize((64, 64))).astype(int)
    is_drawn = np.asarray(Image.fromarray(1.0 - mask).resize((64, 64))) > 1e-6
    tint = np.array([20, -10, 15])
    drawn = np.clip(small + tint * is_drawn[..., None], 0, 255).astype(np.uint8)
    result = region.paste(picture, known, square, drawn).astype(float)
    off = result - picture
    inside = region.distance(~known)
    seam = (inside > 0) & (inside <= 3)
    assert np.abs(off[seam].mean(axis=0)).max() < 4
    # And is what the model drew farther in.
    np.testing.assert_allclose(off[inside > 50].mean(axis=0), tint, atol=1)
    np.testing.assert_array_equal(off[known], 0)


def test_the_edge_of_something_drawn_stays_its_edge():
    picture, known = np.full((400, 400, 3), 90, np.uint8), np.ones((400, 400), bool)
    known[150:250, 150:250] = False
    square = region.around_hole(known, 64)
    is_drawn = ~region.cut_mask(known, square, 64)
    object_there = np.where(is_drawn[..., None], [230, 30, 30], 90).astype(np.uint8)
    drawn = np.asarray(Image.fromarray(object_there).resize((64, 64)))
    result = region.paste(picture, known, square, drawn)
    assert np.abs(result[~known].astype(int) - [230, 30, 30]).max() <= 8


@pytest.mark.parametrize("radius", [0, 1, 4])
def test_a_soft_edge_of_a_picture_is_that_of_the_models(radius):
    known = make_mask(20, 20, 8, 9, 12, 14)
    soft = inpainting.feather(np.float32(known)[None, ..., None], radius)
    share = region.kept_share(known, radius)
    np.testing.assert_allclose(share, np.asarray(soft)[0, ..., 0], atol=1e-6)


def test_a_soft_edge_changes_so_many_pixels_of_the_picture():
    picture, known = make_photo(200, 200), make_mask(200, 200, 80, 80, 120, 120)
    square = region.around_hole(known, 32, 10)
    result = region.paste(picture, known, square, np.zeros((32, 32, 3), np.uint8), 10)
    away = region.distance(known)
    np.testing.assert_array_equal(result[away > 10], picture[away > 10])
    assert (
        result[(away > 0) & (away <= 10)] < picture[(away > 0) & (away <= 10)]
    ).all()
    assert not result[~known].any()
