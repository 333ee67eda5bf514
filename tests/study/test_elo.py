"""Ratings follow the likelihood, and come back from votes made with the paper's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import optimize
from scipy.sparse import csgraph

from glide_jax import errors
from glide_jax.study import elo
from tests.study import made_votes


def tally(entries, models=None):
    """Counts from {(i, j): (i won, j won, neither)}, i < j."""
    n = 1 + max(j for _, j in entries)
    counts = np.zeros((n, n, 3), np.int64)
    for (i, j), outcomes in entries.items():
        counts[i, j] = outcomes
    return elo.Tally(tuple(models or "abcdefghij"[:n]), counts)


def random_wins(rng, n):
    wins = rng.integers(1, 60, (n, n)).astype(float)
    np.fill_diagonal(wins, 0)
    return wins


@pytest.mark.parametrize("share", [0.5, 0.71, 0.999])
def test_two_models_differ_by_the_logit_of_the_win_share_in_points(share):
    wins = np.array([[0.0, share], [1 - share, 0.0]]) * 1000
    ratings = elo.fit(wins)
    # Newton ends below 1e-10 of theta, 2e-8 points.
    assert ratings[0] - ratings[1] == pytest.approx(
        400 * np.log10(share / (1 - share)), abs=1e-6
    )
    assert ratings.sum() == pytest.approx(0, abs=1e-9)


def test_the_winner_is_rated_higher_unlike_with_the_printed_sign():
    assert np.argmax(elo.fit(np.array([[0.0, 9.0], [1.0, 0.0]]))) == 0


def test_ratings_are_those_of_greatest_likelihood_as_a_general_optimiser_finds_it():
    wins = random_wins(np.random.default_rng(0), 5)

    def objective(sigma):
        exponent = (sigma[None, :] - sigma[:, None]) / 400
        return (wins * np.log(1 + 10**exponent)).sum()

    found = optimize.minimize(objective, np.zeros(5), method="BFGS").x
    # BFGS by finite differences stops at a gradient of 1e-5, near 1e-2 points.
    np.testing.assert_allclose(elo.fit(wins), found - found.mean(), atol=0.05)


def test_adding_a_constant_to_all_ratings_changes_no_win_rate():
    ratings = np.array([-30.0, 0.0, 130.0])
    # Rounding of numbers of size 1e3.
    np.testing.assert_allclose(
        elo.win_rates(ratings + 1234.5), elo.win_rates(ratings), atol=1e-12
    )


def test_several_matrices_are_rated_as_each_alone():
    rng = np.random.default_rng(1)
    wins = np.stack([random_wins(rng, 4) for _ in range(6)])
    alone = np.stack([elo.fit(one) for one in wins])
    # Steps go on until the last one has converged, which moves the others by rounding.
    np.testing.assert_allclose(elo.fit(wins), alone, atol=1e-6)


def test_lopsided_votes_converge_where_whole_newton_steps_run_away():
    rng = np.random.default_rng(0)
    wins = 10.0 ** rng.uniform(-6, 4, (2000, 4, 4)) * (1 - np.eye(4))
    expected = (wins + np.swapaxes(wins, 1, 2)) * elo.win_rates(elo.fit(wins))
    # Where the likelihood is greatest each model wins as often as is expected of it, to
    # the rounding of float64.
    worst = np.abs(expected.sum(-1) - wins.sum(-1)).max(-1) / wins.sum((-1, -2))
    assert worst.max() < 1e-12


def test_a_tie_is_half_a_win_to_each():
    ties = elo.wins_of(tally({(0, 1): (3, 1, 4)}).counts)
    np.testing.assert_array_equal(ties, [[0, 5], [3, 0]])


def test_a_maximum_exists_where_the_graph_of_wins_is_strongly_connected():
    rng = np.random.default_rng(0)
    wins = (rng.random((100, 6, 6)) < 0.3) * (1.0 - np.eye(6))
    expected = [
        csgraph.connected_components(one, connection="strong")[0] == 1 for one in wins
    ]
    assert 10 < sum(expected) < 90
    np.testing.assert_array_equal(elo.has_maximum(wins), expected)


@pytest.mark.parametrize("table", [made_votes.TABLE_1, made_votes.TABLE_4])
@pytest.mark.parametrize("question", ["photorealism", "caption"])
def test_the_papers_differences_are_in_the_interval_of_votes_with_its_win_rates(
    table, question
):
    truth = table[question]
    values = np.array(list(truth.values()), float)
    n = len(truth)
    counts = np.zeros((n, n, 3), np.int64)
    rates = elo.win_rates(values)
    for i, j in itertools.combinations(range(n), 2):
        won = round(1000 * rates[i, j])
        counts[i, j] = (won, 1000 - won, 0)
    found = elo.estimate(elo.Tally(tuple(truth), counts), question)
    differences = values[:, None] - values[None, :]
    low, high = found.difference_interval
    assert (low <= differences).all()
    assert (differences <= high).all()
    # Shares are rounded to 1 in 1000, up to 0.9 points at these rates.
    np.testing.assert_allclose(found.ratings, values - values.mean(), atol=0.9, rtol=0)


def test_the_interval_of_two_models_is_that_of_the_binomial_share():
    found = elo.estimate(tally({(0, 1): (710, 290, 0)}), "q", resamples=4000)
    low, high = found.difference_interval[:, 0, 1]
    # The share's standard error, 0.01435, times the slope of the logit, in points.
    half = 1.96 * 0.01435 * elo.POINTS / (0.71 * 0.29)
    # Ends of 4000 resamples scatter by some 4 per cent of the half width.
    assert high - low == pytest.approx(2 * half, rel=0.1)


def test_ties_make_the_interval_narrower_and_move_no_rating():
    ranges = [
        elo.estimate(tally({(0, 1): counts}), "q").difference_interval[:, 0, 1]
        for counts in ((600, 400, 0), (200, 0, 800))
    ]
    widths = [high - low for low, high in ranges]
    assert widths[1] < 0.7 * widths[0]


def test_the_same_seed_gives_the_same_interval_and_another_one_another():
    votes = tally({(0, 1): (30, 20, 5), (1, 2): (25, 30, 0)})
    one, same, other = (
        elo.estimate(votes, "q", seed=seed).interval for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_resamples_without_a_maximum_leave_the_interval_open_and_are_counted():
    # The loser's one win is missing from (29/30)^30 = 36% of the resamples.
    found = elo.estimate(tally({(0, 1): (29, 1, 0)}), "q", resamples=2000)
    assert found.unbounded / 2000 == pytest.approx(0.36, abs=0.05)  # 4.7 deviations
    low, high = found.difference_interval[:, 0, 1]
    assert (low, high) == (-np.inf, np.inf)


def test_groups_that_no_vote_joins_are_named():
    votes = tally({(0, 1): (5, 5, 0), (2, 3): (4, 4, 0)})
    with pytest.raises(errors.UserError, match=r"no vote compares .*: a, b; c, d;"):
        elo.estimate(votes, "photorealism")


@pytest.mark.parametrize(
    ("votes", "told"),
    [
        ({(0, 1): (5, 0, 0)}, "a won every vote against b,"),
        ({(0, 1): (0, 5, 0)}, "b won every vote against a,"),
        (
            {(0, 1): (5, 5, 0), (2, 3): (4, 4, 0), (1, 2): (3, 0, 0)},
            "a, b won every vote against c, d,",
        ),
        # Not even the middle one's place is finite.
        ({(0, 1): (5, 0, 0), (1, 2): (5, 0, 0)}, "a won every vote against b, c,"),
    ],
)
def test_a_model_without_a_loss_is_named_with_the_remedy(votes, told):
    with pytest.raises(errors.UserError, match=f"{told} .*; collect more votes"):
        elo.estimate(tally(votes), "caption")


def test_one_tie_is_enough_for_a_finite_rating():
    assert np.isfinite(elo.estimate(tally({(0, 1): (9, 0, 1)}), "q").ratings).all()
