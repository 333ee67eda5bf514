from __future__ import annotations

import random

from glide_jax.runtime import wording


def test_numbers_are_ordered_by_value():
    expected = ["1.png", "2.png", "10.png", "a1", "a01b", "a/2/9.png", "a/10/1.png"]
    shuffled = random.Random(0).sample(expected, len(expected))
    assert sorted(shuffled, key=wording.natural_key) == expected


def test_names_that_differ_in_zeros_alone_have_one_order():
    names = ["1.png", "01.png", "001.png"]
    orders = {
        tuple(sorted(given, key=wording.natural_key)) for given in (names, names[::-1])
    }
    assert len(orders) == 1


def test_digits_of_other_scripts_are_letters():
    assert sorted(["²", "1", "٣"], key=wording.natural_key)[0] == "1"
