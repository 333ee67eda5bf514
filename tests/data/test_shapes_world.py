"""The embedded worlds: captions are true, and held-out combinations are absent."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.data import shapes_world

WORLDS = [(v, s) for v in ("quickstart", "full") for s in shapes_world.SPLITS]


@pytest.mark.parametrize(("variant", "split"), WORLDS)
def test_a_caption_parses_back_to_its_scene(variant, split):
    world = shapes_world.ShapesWorld(variant, split)
    for index in range(300):
        scene = world.spec(index)
        assert shapes_world.parse_caption(shapes_world.caption(scene)) == scene


def test_the_quickstart_caption_reads_as_documented():
    scene = shapes_world.ShapeScene("red", "circle", "small", "black")
    expected = "a small red circle on a black background"
    assert shapes_world.caption(scene) == expected


def test_a_two_object_caption_reads_as_documented():
    other = shapes_world.ShapeObject("blue", "square", "large")
    scene = shapes_world.ShapeScene(
        "red", "circle", "small", "black", relation="above", other=other
    )
    expected = "a small red circle above a large blue square on a black background"
    assert shapes_world.caption(scene) == expected


@pytest.mark.parametrize("text", ["", "a corgi", "a small red circle on a pink table"])
def test_a_foreign_caption_is_a_user_error(text):
    with pytest.raises(errors.UserError, match="not of the shapes world"):
        shapes_world.parse_caption(text)


def _pairs(scene: shapes_world.ShapeScene) -> list[tuple[str, str]]:
    pairs = [(scene.colour, scene.shape)]
    if scene.other is not None:
        pairs.append((scene.other.colour, scene.other.shape))
    return pairs


@pytest.mark.parametrize("variant", ["quickstart", "full"])
def test_training_never_shows_a_held_out_pair_but_shows_every_other(variant):
    world = shapes_world.ShapesWorld(variant)
    shown = {pair for index in range(2000) for pair in _pairs(world.spec(index))}
    assert not shown & set(shapes_world.HELD_OUT_PAIRS)
    assert len(shown) == 24


@pytest.mark.parametrize("variant", ["quickstart", "full"])
def test_the_held_out_split_shows_only_held_out_pairs_first(variant):
    world = shapes_world.ShapesWorld(variant, "held_out")
    shown = {_pairs(world.spec(index))[0] for index in range(500)}
    assert shown == set(shapes_world.HELD_OUT_PAIRS)


def test_the_held_out_set_is_balanced():
    colours = collections.Counter(c for c, _ in shapes_world.HELD_OUT_PAIRS)
    shapes = collections.Counter(s for _, s in shapes_world.HELD_OUT_PAIRS)
    assert colours == dict.fromkeys(shapes_world.COLOURS, 1)
    assert shapes == dict.fromkeys(shapes_world.SHAPES, 2)


def test_a_record_is_a_function_of_seed_and_index():
    first = shapes_world.ShapesWorld(seed=3)[17]
    again = shapes_world.ShapesWorld(seed=3)[17]
    other = shapes_world.ShapesWorld(seed=4)
    assert first.caption == again.caption
    np.testing.assert_array_equal(first.image, again.image)
    assert any(first.caption != other[i].caption for i in range(17, 20))


@pytest.mark.parametrize(("variant", "split"), WORLDS)
def test_one_scene_drawn_at_two_sizes_is_the_same_picture(variant, split):
    world = shapes_world.ShapesWorld(variant, split)
    for index in range(10):
        big = world.at_px(64)[index].image.astype(np.float32)
        shrunk = big.reshape(16, 4, 16, 4, 3).mean((1, 3))
        small = world.at_px(16)[index].image
        # Both are means of points in a pixel, 256 against 16: an edge through a pixel
        # shifts its share by at most about one of four columns of points, 64 of 255.
        np.testing.assert_allclose(small, shrunk, atol=64)
        assert np.abs(small - shrunk).mean() < 3


def test_quickstart_objects_stay_inside_the_picture():
    for index in range(200):
        world = shapes_world.ShapesWorld()
        scene = world.spec(index)
        picture = shapes_world.render(scene, 64)
        border = np.concatenate(
            [picture[0], picture[-1], picture[:, 0], picture[:, -1]]
        )
        assert (border == shapes_world.BACKGROUNDS[scene.background]).all()


@pytest.mark.parametrize("shape", shapes_world.SHAPES)
def test_the_share_covered_is_the_shapes_area(shape):
    arm = shapes_world.CROSS_ARM
    areas = {
        "circle": np.pi / 4,
        "square": 1.0,
        "triangle": 0.5,
        "cross": 1 - (1 - arm) ** 2,
    }
    share = shapes_world.coverage(shape, (0.5, 0.5), 0.75, 32)
    # Points lie 1/128 apart; along a perimeter of at most 4 x 0.75 that is 0.012 if
    # every edge fell on the same side.
    assert share.mean() == pytest.approx(areas[shape] * 0.75**2, abs=0.012)
    assert share.min() == 0.0
    assert share.max() == 1.0


@pytest.mark.parametrize("kind", [("huge", "train"), ("full", "val")])
def test_an_unknown_world_or_split_is_a_user_error(kind):
    with pytest.raises(errors.UserError, match="is unknown; use"):
        shapes_world.ShapesWorld(*kind)
