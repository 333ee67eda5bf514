"""The reader of the full world is right, and every failure has its outcome."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.data import shapes_world
from glide_jax.eval import binding_errors, scene_reader

CAPTION = "a small red circle to the left of a large blue square on a white background"
SINGLE = "a large cyan cross at the top on a navy background"


def picture(caption: str, px: int = 32) -> np.ndarray:
    return shapes_world.render(shapes_world.parse_caption(caption), px)


def outcome(caption: str, image: np.ndarray) -> str:
    scene = shapes_world.parse_caption(caption)
    return binding_errors.compare(scene, image).outcome


def world(
    split: str, num_objects: int, px: int, count: int
) -> tuple[np.ndarray, list[str]]:
    """The first records with this number of objects."""
    source = shapes_world.ShapesWorld("full", split, size_px=px)
    scenes = [source.spec(index) for index in range(3 * count)]
    scenes = [s for s in scenes if len(s.objects) == num_objects][:count]
    pictures = [shapes_world.render(scene, px) for scene in scenes]
    return np.stack(pictures), [shapes_world.caption(scene) for scene in scenes]


def noisy(images: np.ndarray, std: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, std, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def blurred_and_tinted(images: np.ndarray) -> np.ndarray:
    soft = images.astype(np.float32)
    for axis in (1, 2):
        near = [np.roll(soft, shift, axis) for shift in (-1, 0, 1)]
        soft = 0.1 * near[0] + 0.8 * near[1] + 0.1 * near[2]
    tint = np.random.default_rng(1).uniform(0, 30, (len(images), 1, 1, 3))
    return 0.85 * soft + tint


@pytest.mark.parametrize("split", shapes_world.SPLITS)
@pytest.mark.parametrize("num_objects", [1, 2])
@pytest.mark.parametrize("change", ["none", "noise", "soft"])
def test_real_pictures_are_read_right(split, num_objects, change):
    images, captions = world(split, num_objects, 32, 100)
    if change == "soft":
        images = blurred_and_tinted(images)
    found = binding_errors.score(noisy(images, 0 if change == "none" else 10), captions)
    assert found["n"] == 100
    assert min(found["words"].values()) >= 0.98
    assert found["outcomes"]["right"] >= 0.96


def test_larger_pictures_are_read_as_well():
    images, captions = world("held_out", 2, 64, 60)
    assert binding_errors.score(images, captions)["outcomes"]["right"] == 1


def test_large_objects_that_touch_are_two():
    scene = shapes_world.parse_caption(
        "a large red square above a large red square on a black background"
    )
    near = dataclasses.replace(scene, offsets=((0.0, 0.03), (0.0, -0.03)))
    found = binding_errors.compare(near, shapes_world.render(near, 32))
    assert found.outcome == "right"


# What each picture shows instead of CAPTION.
FAILURES = {
    "right": CAPTION,
    "moved": "a large blue square to the left of a small red circle"
    " on a white background",
    "swapped": "a small blue circle to the left of a large red square"
    " on a white background",
    "one word": "a small red circle to the left of a large blue triangle"
    " on a white background",
    "more words": "a large red triangle to the left of a large blue square"
    " on a white background",
    "missing": "a large blue square on the right on a white background",
}


@pytest.mark.parametrize("expected", FAILURES)
def test_a_failure_has_its_outcome(expected):
    assert outcome(CAPTION, picture(FAILURES[expected])) == expected


def test_other_swaps_and_moves_have_the_same_outcomes():
    sizes = CAPTION.replace("small", "big").replace("large", "small")
    assert outcome(CAPTION, picture(sizes.replace("big", "large"))) == "swapped"
    assert outcome(CAPTION, picture(CAPTION.replace("left", "right"))) == "moved"
    turned = CAPTION.replace("to the left of", "above")
    assert outcome(CAPTION, picture(turned)) == "moved"
    assert outcome(SINGLE, picture(SINGLE.replace("top", "bottom"))) == "moved"
    assert outcome(SINGLE, picture(SINGLE.replace("navy", "brown"))) == "one word"


def test_a_third_object_and_an_empty_picture_are_counted():
    image = picture(CAPTION)
    image[26:31, 2:7] = (0, 255, 0)
    assert outcome(CAPTION, image) == "extra"
    empty = np.full((32, 32, 3), 255, np.uint8)
    scene = shapes_world.parse_caption(CAPTION)
    found = binding_errors.compare(scene, empty)
    assert found.outcome == "missing"
    assert [word for word, is_right in found.words.items() if is_right] == [
        "background"
    ]


def test_words_follow_the_object_that_has_them():
    """The object with most of its words right is taken for it, wherever it is."""
    scene = shapes_world.parse_caption(CAPTION)
    found = binding_errors.compare(scene, picture(FAILURES["moved"]))
    assert [word for word, is_right in found.words.items() if not is_right] == [
        "relation"
    ]
    found = binding_errors.compare(scene, picture(FAILURES["swapped"]))
    assert [word for word, is_right in found.words.items() if not is_right] == [
        "colour 1",
        "colour 2",
    ]


def test_shares_sum_to_one_and_fall_with_wrong_captions():
    images, captions = world("train", 2, 32, 120)
    found = binding_errors.score(images, captions[1:] + captions[:1])
    assert sum(found["outcomes"].values()) == pytest.approx(1, abs=1e-12)
    assert found["outcomes"]["right"] == 0
    # Chance of a colour is 1/8 for one object, and more as the better match counts.
    assert found["words"]["colour 1"] < 0.35


def test_noise_is_read_without_failing():
    rng = np.random.default_rng(2)
    for _ in range(20):
        seen = scene_reader.read_picture(rng.integers(0, 256, (32, 32, 3), np.uint8))
        assert seen.background in shapes_world.BACKGROUNDS


def test_captions_of_the_wrong_kind_are_refused():
    with pytest.raises(errors.UserError, match="no pictures"):
        binding_errors.score(np.zeros((0, 32, 32, 3), np.uint8), [])
    with pytest.raises(errors.UserError, match="names no place"):
        binding_errors.score(
            np.zeros((1, 32, 32, 3), np.uint8),
            ["a small red circle on a white background"],
        )
    with pytest.raises(errors.UserError, match="mixed"):
        binding_errors.score(
            np.stack([picture(CAPTION), picture(SINGLE)]), [CAPTION, SINGLE]
        )
