"""The checker accepts real pictures, and refuses wrong captions."""

from __future__ import annotations

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.data import shapes_world
from glide_jax.eval import shapes_checker


def _pictures(split: str, px: int, count: int) -> tuple[np.ndarray, list[str]]:
    world = shapes_world.ShapesWorld("quickstart", split, size_px=px)
    examples = [world[index] for index in range(count)]
    return np.stack([e.image for e in examples]), [e.caption for e in examples]


def _noisy(images: np.ndarray, std: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, std, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("split", shapes_world.SPLITS)
@pytest.mark.parametrize("px", [16, 64])
@pytest.mark.parametrize("std", [0, 10, 30])
def test_real_pictures_are_read_right_also_through_noise(split, px, std):
    images, captions = _pictures(
        split, px, 512 if (px, std) in ((16, 10), (64, 10)) else 128
    )
    result = shapes_checker.score(_noisy(images, std), captions)
    assert result["colour"] >= 0.99
    assert result["shape"] >= 0.99
    assert result["background"] >= 0.99
    assert result["n"] == len(captions)


@pytest.mark.parametrize("px", [16, 64])
def test_soft_edged_tinted_pictures_are_read_right(px):
    images, captions = _pictures("held_out", px, 256)
    rng = np.random.default_rng(1)
    blurred = images.astype(np.float32)
    for axis in (1, 2):
        near = [np.roll(blurred, shift, axis) for shift in (-1, 0, 1)]
        blurred = 0.25 * near[0] + 0.5 * near[1] + 0.25 * near[2]
    tint = rng.uniform(0, 40, (256, 1, 1, 3))
    result = shapes_checker.score(_noisy(0.85 * blurred + tint, 10), captions)
    assert min(result["colour"], result["shape"]) >= 0.99


def test_captions_of_other_pictures_score_no_better_than_chance():
    images, captions = _pictures("train", 16, 512)
    result = shapes_checker.score(images, captions[1:] + captions[:1])
    # Chance is 1/8 and 1/4; five standard deviations of 512 draws are 0.07 and 0.10.
    assert result["colour"] < 0.125 + 0.07
    assert result["shape"] < 0.25 + 0.10
    assert abs(result["background"] - 0.5) < 0.11


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_an_empty_picture_shows_nothing(shade):
    seen = shapes_checker.read_scene(np.full((16, 16, 3), shade, np.uint8))
    assert (seen.colour, seen.shape) == ("none", "none")


def test_noise_alone_is_read_without_failing():
    rng = np.random.default_rng(2)
    for _ in range(50):
        picture = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        seen = shapes_checker.read_scene(picture)
        assert seen.colour in (*shapes_world.COLOURS, "none")
        assert seen.shape in (*shapes_world.SHAPES, "none")
        assert seen.background in shapes_world.BACKGROUNDS


def test_no_pictures_are_refused():
    with pytest.raises(errors.UserError, match="no pictures"):
        shapes_checker.score(np.zeros((0, 16, 16, 3), np.uint8), [])
