"""Precision and recall by the evaluator's float16 distances."""

from __future__ import annotations

import numpy as np
import pytest

from glide_jax.eval import distances, float16_distances


def features(count: int, *, spread: float, seed: int, size: int = 2048) -> np.ndarray:
    """Features like Inception's: at least 0, far from the origin, near each other."""
    mix = np.random.default_rng(0).standard_normal((16, size)) / 4
    found = np.random.default_rng(seed).standard_normal((count, 16)) @ mix
    return np.maximum(0.4 + spread * found, 0).astype(np.float32)


def directly(samples: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Row by row: each operation's result is rounded to float16."""

    def half(values):
        return np.asarray(values, np.float64).astype(np.float16).astype(np.float64)

    def length(row):
        return half(half(row * row).sum())

    def squared(u, v):
        return max(0.0, float(half(half(length(u) - 2 * half(u @ v)) + length(v))))

    def radius(row, rows):
        return sorted(squared(row, other) for other in rows)[3]

    samples, reference = half(samples), half(reference)
    real_radii = [radius(row, reference) for row in reference]
    drawn_radii = [radius(row, samples) for row in samples]
    ways = np.array([[squared(u, v) for v in samples] for u in reference])
    precision = (ways <= np.array(real_radii)[:, None]).any(axis=0).mean()
    return precision, (ways <= np.array(drawn_radii)).any(axis=1).mean()


def test_it_equals_a_direct_emulation_and_not_the_exact_figures():
    real = features(70, spread=0.02, seed=1)
    drawn = features(50, spread=0.016, seed=2)
    found = float16_distances.precision_recall(drawn, real)
    assert found == pytest.approx(directly(drawn, real))
    exact = distances.precision_recall(drawn, real)
    # The balls reach farther: what is equal after rounding is within.
    assert found.precision > exact.precision
    assert found.recall > exact.recall


@pytest.mark.parametrize("block", [7, 25, 1000])
def test_it_does_not_depend_on_the_size_of_a_block_without_overflow(block, monkeypatch):
    real, drawn = (features(n, spread=0.02, seed=n, size=64) for n in (60, 50))
    expected = float16_distances.precision_recall(drawn, real)
    assert 0 < expected.precision < 1
    monkeypatch.setattr(float16_distances, "BLOCK", block)
    assert float16_distances.precision_recall(drawn, real) == expected


def test_distances_that_are_exact_in_float16_are_those_of_the_exact_figures():
    # 64 rows: the mean that the exact distances subtract is exact, too.
    rng = np.random.default_rng(3)
    real, drawn = rng.integers(-4, 5, (2, 64, 6)).astype(np.float32)
    found = float16_distances.precision_recall(drawn, real)
    assert found == distances.precision_recall(drawn, real)


def test_a_block_in_which_a_distance_overflows_is_computed_in_float32():
    near = np.ones((3, 4), np.float32)
    far = np.full((1, 4), 200, np.float32)  # squared length 160,000; the most is 65,504
    assert float16_distances.squared_distances(near, near).dtype == np.float16
    found = float16_distances.squared_distances(near, np.concatenate([near, far]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, 3], 4 * 199.0**2)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_with_fewer_points_than_neighbours_the_ball_reaches_the_farthest(count):
    rows = np.arange(count, dtype=np.float32)[:, None] * 2
    assert float16_distances.precision_recall(rows, rows) == (1, 1)
    apart = rows + 100
    assert float16_distances.precision_recall(apart, rows) == (0, 0)
