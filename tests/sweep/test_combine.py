"""Combinations of overrides."""

from __future__ import annotations

import pytest

from glide_jax.errors import UserError
from glide_jax.sweep import listed, product, seeds, zipped


def test_a_product_has_every_combination_and_its_last_part_changes_fastest():
    runs = product(listed("a", [1, 2]), listed("b", "xy"), seeds(1))
    assert runs == [
        {"a": 1, "b": "x", "seed": 0},
        {"a": 1, "b": "y", "seed": 0},
        {"a": 2, "b": "x", "seed": 0},
        {"a": 2, "b": "y", "seed": 0},
    ]


def test_zipped_parts_go_together():
    runs = zipped(listed("a", [1, 2]), listed("b", [3, 4]), seeds(2))
    assert runs == [{"a": 1, "b": 3, "seed": 0}, {"a": 2, "b": 4, "seed": 1}]


def test_parts_of_parts_are_parts():
    runs = product(zipped(listed("a", [1, 2]), listed("b", [3, 4])), seeds(3))
    assert len(runs) == 6
    assert {(run["a"], run["b"]) for run in runs} == {(1, 3), (2, 4)}


@pytest.mark.parametrize("combine", [product, zipped])
def test_a_key_that_two_parts_set_is_refused(combine):
    with pytest.raises(UserError, match="both set 'a'"):
        combine(listed("a", [1]), listed("a", [2]))


def test_zipped_parts_of_different_lengths_are_refused():
    with pytest.raises(UserError, match="of parts of 2, 3 runs"):
        zipped(listed("a", [1, 2]), seeds(3))
