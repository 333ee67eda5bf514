"""Masks are binary, varied, and a function of their generator."""

from __future__ import annotations

import numpy as np
import pytest

from glide_jax.data import masks


def _shares(height: int, width: int, count: int) -> np.ndarray:
    drawn = [
        masks.random_mask(np.random.default_rng(i), height, width) for i in range(count)
    ]
    return np.array([mask.mean() for mask in drawn])


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (8, 24), (1, 1)])
def test_a_mask_is_binary_with_one_channel_and_something_to_fill(size):
    for seed in range(100):
        mask = masks.random_mask(np.random.default_rng(seed), *size)
        assert mask.shape == (*size, 1)
        assert mask.dtype == np.float32
        assert set(np.unique(mask)) <= {0.0, 1.0}
        assert mask.min() == 0.0


def test_equal_generators_give_equal_masks():
    one, two = (masks.random_mask(np.random.default_rng(3), 32, 32) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_known_shares_range_from_nothing_to_most():
    shares = _shares(64, 64, 400)
    # One in twenty is wholly unknown: 20 of 400, five deviations are 22.
    assert 1 <= (shares == 0.0).sum() <= 42
    assert shares.max() > 0.9
    assert 0.4 < shares.mean() < 0.85


def test_masks_have_the_same_shares_at_any_size():
    # Means of 400 shares of deviation 0.3 err by 0.015 each; strokes keep at least
    # one pixel of width at 16 px, which erases a little more.
    assert _shares(16, 16, 400).mean() == pytest.approx(
        _shares(64, 64, 400).mean(), abs=0.06
    )
