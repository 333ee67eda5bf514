"""The stream of records: whole epochs, exact shares, nothing stored."""

from __future__ import annotations

import collections

import pytest

from glide_jax import errors
from glide_jax.data import mixture, order, shapes_world, sources


def _world(length: int) -> shapes_world.ShapesWorld:
    return shapes_world.ShapesWorld(size_px=16, length=length)


@pytest.mark.parametrize("length", [1, 2, 7, 100])
def test_every_epoch_visits_every_record_once(length):
    for epoch in range(3):
        positions = range(epoch * length, (epoch + 1) * length)
        drawn = [order.record_at(_world(length), 5, p) for p in positions]
        assert sorted(drawn) == list(range(length))


def test_epochs_and_seeds_differ_in_order():
    def drawn(seed: int, epoch: int) -> list[int]:
        first = 100 * epoch
        return [order.record_at(_world(100), seed, first + i) for i in range(100)]

    assert drawn(0, 0) != drawn(0, 1)
    assert drawn(0, 0) != drawn(1, 0)
    assert drawn(0, 0) == drawn(0, 0)


def test_a_mixture_keeps_its_shares_exactly_in_every_block():
    parts = tuple(_world(n) for n in (30, 50, 70))
    mixed = mixture.Mixture(parts, (3.0, 1.0, 1.0))
    for block in (0, 7):
        positions = range(block * mixture.BLOCK, (block + 1) * mixture.BLOCK)
        shares = collections.Counter(mixed.part_at(2, p)[0] for p in positions)
        assert shares == {0: 600, 1: 200, 2: 200}


def test_each_part_of_a_mixture_is_visited_in_whole_epochs():
    mixed = mixture.Mixture((_world(300), _world(50)), (3.0, 1.0))
    drawn = [order.record_at(mixed, 0, position) for position in range(2000)]
    # 1500 draws of the first part are 5 epochs, 500 of the second 10.
    counts = collections.Counter(drawn)
    assert [counts[i] for i in range(300)] == [5] * 300
    assert [counts[i] for i in range(300, 350)] == [10] * 50


def test_a_mixture_holds_its_parts_one_behind_another():
    mixed = mixture.Mixture((_world(3), shapes_world.ShapesWorld("full")), (1.0, 1.0))
    assert mixed[2].key == "shapes:quickstart/train/2"
    assert mixed[3].key == "shapes:full/train/0"
    assert mixed.at_px(32)[5].image.shape == (32, 32, 3)
    with pytest.raises(IndexError):
        mixed[len(mixed)]


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, -1.0), (5000.0, 1.0)])
def test_weights_that_do_not_fit_are_a_user_error(weights):
    with pytest.raises(errors.UserError, match=r"data\.weights"):
        mixture.Mixture((_world(3), _world(3)), weights)


def test_one_weight_for_several_sources_means_equal_shares():
    specs = ("shapes:quickstart", "shapes:full")
    mixed = sources.open_mixture(specs, (1.0,))
    equal = sources.open_mixture(specs, (0.5, 0.5))
    places = [mixed.part_at(0, p) for p in range(100)]
    assert places == [equal.part_at(0, p) for p in range(100)]
    assert {part for part, _ in places} == {0, 1}


def test_uneven_weights_still_fill_a_block():
    mixed = mixture.Mixture((_world(3), _world(3), _world(3)), (1.0, 1.0, 0.0021))
    shares = collections.Counter(mixed.part_at(0, p)[0] for p in range(mixture.BLOCK))
    assert shares.total() == mixture.BLOCK
    assert shares[2] == 1
