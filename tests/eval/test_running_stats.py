"""Laws of streamed means and covariances."""

from __future__ import annotations

import numpy as np
import pytest

from glide_jax import errors
from glide_jax.eval import running_stats

RNG = np.random.default_rng(0)
# Far from the origin, where sums of squares in float32 would lose every digit.
ROWS = (1000 + RNG.standard_normal((500, 6)) @ RNG.standard_normal((6, 6))).astype(
    np.float32
)
# Sums of 500 numbers of size 1000 in float64 agree to about 500 * 1000 * 2^-53.
TOLERANCE = 1e-9


def streamed(rows: np.ndarray, size: int) -> running_stats.Gaussian:
    found = running_stats.RunningMoments(rows.shape[1])
    for start in range(0, len(rows), size):
        found.add(rows[start : start + size])
    return found.gaussian()


@pytest.mark.parametrize("size", [1, 7, 64, 500])
def test_batches_of_any_size_give_numpys_mean_and_covariance(size):
    found = streamed(ROWS, size)
    wide = ROWS.astype(np.float64)
    np.testing.assert_allclose(found.mu, wide.mean(axis=0), atol=TOLERANCE)
    np.testing.assert_allclose(found.sigma, np.cov(wide, rowvar=False), atol=TOLERANCE)
    assert found.count == 500


def test_the_order_of_features_does_not_matter():
    shuffled = RNG.permutation(ROWS)
    np.testing.assert_allclose(
        streamed(ROWS, 32).sigma, streamed(shuffled, 32).sigma, atol=TOLERANCE
    )


def test_two_that_saw_a_half_each_merge_to_one_that_saw_all():
    first, second = running_stats.RunningMoments(6), running_stats.RunningMoments(6)
    first.add(ROWS[:123])
    second.add(ROWS[123:])
    first.merge(second)
    whole = streamed(ROWS, 500)
    np.testing.assert_allclose(first.gaussian().mu, whole.mu, atol=TOLERANCE)
    np.testing.assert_allclose(first.gaussian().sigma, whole.sigma, atol=TOLERANCE)


def test_a_batch_of_none_changes_nothing():
    found = running_stats.RunningMoments(6)
    found.add(ROWS[:0])
    found.merge(running_stats.RunningMoments(6))
    assert found.count == 0
    with pytest.raises(errors.UserError, match="0 pictures given"):
        found.gaussian()


def test_as_many_features_as_numbers_do_not_span_the_space():
    assert streamed(ROWS[:6], 6).is_singular
    assert not streamed(ROWS[:7], 7).is_singular
    assert np.linalg.matrix_rank(streamed(ROWS[:6], 6).sigma, tol=1e-6) == 5
