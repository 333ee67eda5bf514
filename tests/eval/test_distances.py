"""Laws of the distances between sets of features, most of them worked by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from glide_jax.eval import distances, running_stats


def test_diversity_is_the_mean_over_all_pairs_of_a_prompt_whatever_their_order():
    rng = np.random.default_rng(3)
    rows, prompts = rng.standard_normal((9, 5)), [*"abacabcad"]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    by_prompt = []
    for prompt in "abc":  # "d" has one picture only
        own = [u for u, p in zip(unit, prompts, strict=True) if p == prompt]
        pairs = itertools.combinations(own, 2)
        by_prompt.append(np.mean([((u - v) ** 2).sum() for u, v in pairs]))
    estimate = distances.diversity(rows, prompts)
    assert estimate.value == pytest.approx(np.mean(by_prompt))
    error = np.std(by_prompt, ddof=1) / np.sqrt(3)
    assert estimate.standard_error == pytest.approx(error)
    # The lengths of features and the order of pictures do not count.
    order = rng.permutation(9)
    scaled = (rows * rng.uniform(0.1, 10, (9, 1)))[order]
    turned = distances.diversity(scaled, [prompts[i] for i in order])
    assert turned == pytest.approx(estimate)


def test_diversity_of_equal_orthogonal_and_opposite_features_is_0_2_and_4():
    x, y = np.eye(2)
    for pair, value in (((x, 3 * x), 0), ((x, y), 2), ((x, -x), 4)):
        estimate = distances.diversity(np.array(pair), ["a", "a"])
        assert estimate.value == pytest.approx(value, abs=1e-12)
        assert estimate.standard_error is None


def gaussian_of(rows: np.ndarray) -> running_stats.Gaussian:
    found = running_stats.RunningMoments(rows.shape[1])
    found.add(rows)
    return found.gaussian()


def rotation(size: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((size, size)))[0]


def test_frechet_of_gaussians_of_one_basis_equals_the_closed_form():
    rng = np.random.default_rng(1)
    basis = rotation(8, rng)
    first, second = rng.uniform(0.1, 4, (2, 8))
    shift = rng.standard_normal(8)
    found = distances.frechet(
        running_stats.Gaussian(np.zeros(8), basis @ np.diag(first) @ basis.T),
        running_stats.Gaussian(shift, basis @ np.diag(second) @ basis.T),
    )
    # Covariances of one basis commute: sum of (sqrt a - sqrt b)^2 over the axes.
    expected = shift @ shift + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert found == pytest.approx(expected, rel=1e-12)


def test_frechet_of_two_planes_that_do_not_commute_equals_its_closed_form():
    # In two dimensions tr (AB)^1/2 = sqrt(tr AB + 2 sqrt(det AB)).
    a, b = np.array([[2.0, 1.0], [1.0, 1.0]]), np.array([[1.0, -0.5], [-0.5, 3.0]])
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    found = distances.frechet(
        running_stats.Gaussian(np.zeros(2), a), running_stats.Gaussian(np.ones(2), b)
    )
    assert found == pytest.approx(2 + np.trace(a + b) - 2 * root, rel=1e-12)


def test_frechet_of_drawn_sets_comes_near_the_gaussians_they_were_drawn_from():
    rng = np.random.default_rng(2)
    first = gaussian_of(rng.standard_normal((20_000, 4)))
    second = gaussian_of(1 + 2 * rng.standard_normal((20_000, 4)))
    # |1|^2 4 + 4 (2 - 1)^2 = 8; a mean of 20,000 errs by 0.02 an axis, so 8 by 0.15.
    assert distances.frechet(first, second) == pytest.approx(8, abs=0.15)


@pytest.mark.parametrize("count", [40, 400])
def test_frechet_of_a_set_with_itself_is_zero_singular_or_not(count):
    rows = 10 * np.random.default_rng(3).standard_normal((count, 64))
    found = gaussian_of(rows)
    assert found.is_singular == (count == 40)
    # Of traces near 6400; rounding of 64 roots.
    assert distances.frechet(found, found) == pytest.approx(0, abs=1e-8)


def test_kernel_distance_of_small_sets_is_the_sum_written_out():
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((5, 3)), rng.standard_normal((4, 3)) + 1
    k = lambda a, b: (a @ b / 3 + 1) ** 3  # noqa: E731
    expected = (
        np.mean([k(a, b) for a, b in itertools.permutations(x, 2)])
        + np.mean([k(a, b) for a, b in itertools.permutations(y, 2)])
        - 2 * np.mean([k(a, b) for a, b in itertools.product(x, y)])
    )
    assert distances.kernel(x, y).value == pytest.approx(expected, rel=1e-12)
    # A set of one has no pairs, so two pictures tell of no error.
    assert distances.kernel(x[:2], y).standard_error is None


def test_the_error_of_a_kernel_distance_is_that_of_leaving_pictures_out():
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((6, 3)), rng.standard_normal((5, 3)) + 1
    without_x = [distances.kernel(np.delete(x, i, 0), y).value for i in range(6)]
    without_y = [distances.kernel(x, np.delete(y, j, 0)).value for j in range(5)]
    expected = 5 * np.var(without_x) + 4 * np.var(without_y)
    found = distances.kernel(x, y).standard_error
    assert found == pytest.approx(np.sqrt(expected), rel=1e-9)


@pytest.mark.parametrize(("shift", "least", "most"), [(0.5, 0.9, 1.1), (0, 1.2, 1.6)])
def test_the_error_of_a_kernel_distance_is_the_spread_of_drawn_sets(shift, least, most):
    rng = np.random.default_rng(5)
    draws = rng.standard_normal((400, 2, 80, 4)) + np.array([0, shift])[:, None, None]
    found = [distances.kernel(x, y) for x, y in draws]
    values, errors = np.transpose(found)
    # 400 values have a spread that errs by 4%. Sets of one distribution: too large.
    assert least < np.sqrt((errors**2).mean()) / values.std() < most
    if not shift:
        # Unbiased: the mean of 400 lies within 4 of its errors of 0.
        assert abs(values.mean()) < 4 * values.std() / 20


def test_kernel_distance_does_not_depend_on_blocks_or_order(monkeypatch):
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((90, 4)), rng.standard_normal((70, 4)) + 0.5
    whole = distances.kernel(x, y)
    shuffled = distances.kernel(rng.permutation(x), rng.permutation(y))
    assert shuffled == pytest.approx(whole, rel=1e-9)
    monkeypatch.setattr(distances, "_TILE", 16)
    assert distances.kernel(x, y) == pytest.approx(whole, rel=1e-9)


def test_inception_score_counts_the_classes_that_are_sure_and_even():
    sure = 1000.0 * np.eye(5)[np.arange(200) % 5]
    assert distances.inception_score(sure) == pytest.approx(5)
    assert distances.inception_score(np.zeros((200, 5))) == pytest.approx(1)
    assert distances.inception_score(sure[::5]) == pytest.approx(1)


def test_inception_score_is_the_mean_over_parts_by_index():
    logits = np.random.default_rng(7).standard_normal((250, 6))
    # 50 left over make a part, 40 belong to the part before.
    for count, bounds in ((250, [100, 200]), (240, [100]), (90, []), (40, [])):
        parts = np.split(logits[:count], bounds)
        expected = np.mean([distances.inception_score(part) for part in parts])
        found = distances.inception_score(logits[:count], split_size=100)
        assert found == pytest.approx(expected)


def test_precision_and_recall_of_constructed_clouds_come_out_by_hand():
    # Four points on a line, one apart: the third neighbour of an end is 3 away, of a
    # middle one 2, so that the manifold is [-3, 6].
    real = np.array([[0.0], [1.0], [2.0], [3.0]])
    # 5 and 6 lie in it (3 reaches 6, edge included), 7 and 8 do not.
    drawn = np.array([[5.0], [6.0], [7.0], [8.0]])
    # And the drawn manifold is [2, 11]: it holds 2 and 3, not 0 and 1.
    assert distances.precision_recall(drawn, real) == (0.5, 0.5)
    # One mode of two: precise, but half of reality is lacking.
    two_modes = np.concatenate([real, real + 100])
    assert distances.precision_recall(real, two_modes) == (1.0, 0.5)
    assert distances.precision_recall(two_modes, real) == (0.5, 1.0)
    assert distances.precision_recall(real, real + 100) == (0.0, 0.0)


def test_precision_and_recall_do_not_depend_on_blocks_or_order(monkeypatch):
    rng = np.random.default_rng(8)
    drawn, real = rng.standard_normal((90, 3)), rng.standard_normal((70, 3)) + 0.5
    whole = distances.precision_recall(drawn, real)
    assert 0 < whole.precision < 1
    shuffled = distances.precision_recall(rng.permutation(drawn), rng.permutation(real))
    assert shuffled == whole
    monkeypatch.setattr(distances, "_TILE", 16)
    assert distances.precision_recall(drawn, real) == whole


def test_radii_are_those_of_all_distances_at_once(monkeypatch):
    rows = np.random.default_rng(9).standard_normal((50, 3))
    every = np.linalg.norm(rows[:, None] - rows, axis=-1)
    expected = np.sort(every, axis=1)[:, 3]  # the first is the point itself
    monkeypatch.setattr(distances, "_TILE", 7)
    found = np.sqrt(distances._squared_radii(rows, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # Two points: each has one neighbour only.
    assert distances._squared_radii(np.array([[0.0], [2.0]]), 3).tolist() == [4, 4]
