"""Elo ratings of models from human choices between their pictures.

With A_ij the wins of model i over model j, where a tie is half a win for each, the
ratings sigma maximise the likelihood [GLIDE, appendix A.1]:

    minimise  -sum_ij A_ij log p_ij,                                          (1)
    p_ij = 1 / (1 + 10^((sigma_j - sigma_i) / 400))

The paper prints the exponent with the opposite sign, which would reward losing. With
theta = sigma ln(10) / 400 this is the model of Bradley and Terry, p_ij = expit(theta_i
- theta_j), whose likelihood is concave. Only differences of ratings have a meaning;
here their mean is 0 (in the paper they start at 0, and the sums of its tables are not).

A finite maximum exists if and only if no subset of the models won every comparison with
the rest, and none was never compared with it [Ford 1957].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special
from scipy.sparse import csgraph

from glide_jax.errors import UserError

# Elo points of one unit of theta.
POINTS = 400 / np.log(10)
LEVEL = 0.95
# Of each comparison of two models: how often the first won, the second won, neither.
OUTCOMES = ("first", "second", "tie")
_TOLERANCE = 1e-10  # of theta: far below any vote's weight
_MAX_STEPS = 100  # Newton takes about ten

Wins = Float[np.ndarray, "*resamples n n"]
PerResample = Bool[np.ndarray, "resamples"]
Ratings = Float[np.ndarray, "*resamples n"]


@dataclasses.dataclass(frozen=True)
class Tally:
    """The votes on one question, counted.

    Attributes:
      models: Names, n of them.
      counts: int (n, n, 3); for i < j how often i won against j, j against i, and how
        often neither did (`OUTCOMES`); zero elsewhere.
    """

    models: tuple[str, ...]
    counts: np.ndarray

    @property
    def votes(self) -> int:
        """The number of votes."""
        return int(self.counts.sum())

    @property
    def ties(self) -> int:
        """The number of ties."""
        return int(self.counts[..., 2].sum())


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Ratings with bootstrap intervals (`LEVEL`); an end is infinite for too few votes.

    Attributes:
      tally: The votes.
      ratings: (n,) Elo points of mean 0.
      interval: (2, n) lower and upper ends.
      difference_interval: (2, n, n) the same of ratings[i] - ratings[j].
      unbounded: The number of resamples without a finite maximum.
    """

    tally: Tally
    ratings: np.ndarray
    interval: np.ndarray
    difference_interval: np.ndarray
    unbounded: int


def wins_of(counts: Int[np.ndarray, "*resamples n n 3"]) -> Wins:
    """Returns A of eq. 1: wins of i over j, a tie being half a win for each."""
    first = counts[..., 0] + counts[..., 2] / 2
    second = counts[..., 1] + counts[..., 2] / 2
    return first + np.swapaxes(second, -1, -2)


def win_rates(ratings: Ratings) -> Wins:
    """Returns p of eq. 1: the chance that the model of a row beats that of a column."""
    return special.expit((ratings[..., :, None] - ratings[..., None, :]) / POINTS)


def fit(wins: Wins) -> Ratings:
    """Returns the ratings of eq. 1, of mean 0, for one or several matrices of wins.

    Newton's method with a step shortened to log(1 + r) / r of its length, r its largest
    difference between two models: the objective then falls in every step, from any
    start [Bach 2010, Self-concordant analysis for logistic regression, lemma 1].

    The caller ensures that a finite maximum exists (`has_maximum`).
    """
    played = wins + np.swapaxes(wins, -1, -2)
    models = wins.shape[-1]
    identity = np.eye(models)
    theta = np.zeros(wins.shape[:-1])
    for _ in range(_MAX_STEPS):
        chance = special.expit(theta[..., :, None] - theta[..., None, :])
        slope = (wins - played * chance).sum(-1)
        weight = played * chance * (1 - chance)
        curvature = identity * weight.sum(-1)[..., None] - weight
        # Constants are in its null space; the mean keeps them out of the step.
        scale = np.trace(curvature, axis1=-2, axis2=-1)[..., None, None]
        step = np.linalg.solve(curvature + scale / models**2, slope[..., None])[..., 0]
        spread = np.ptp(step, axis=-1)[..., None]
        theta = theta + step * np.log1p(spread) / np.maximum(spread, 1e-300)
        if spread.max(initial=0.0) < _TOLERANCE:
            break
    return POINTS * (theta - theta.mean(-1, keepdims=True))


def has_maximum(
    wins: Float[np.ndarray, "resamples n n"],
) -> PerResample:
    """Returns where eq. 1 has a finite maximum: wins connect all models both ways."""
    reach = (wins > 0) | np.eye(wins.shape[-1], dtype=bool)
    for _ in range(max(1, (wins.shape[-1] - 1).bit_length())):
        reach = reach.astype(np.float32) @ reach.astype(np.float32) > 0
    return np.asarray(reach.all((-1, -2)))


def check(tally: Tally, question: str) -> None:
    """Raises UserError unless eq. 1 has a finite maximum, stating what prevents it."""
    wins, names = wins_of(tally.counts), tally.models
    groups, label = csgraph.connected_components(wins > 0, directed=False)
    if groups > 1:
        listed = "; ".join(_listed(names, label == group) for group in range(groups))
        raise UserError(
            f"question {question!r}: no vote compares these groups of models: {listed};"
            " collect votes between them, or evaluate each group by itself"
        )
    groups, label = csgraph.connected_components(wins > 0, connection="strong")
    for group in range(groups if groups > 1 else 0):
        inside = label == group
        if not wins[np.ix_(~inside, inside)].any():
            raise UserError(
                f"question {question!r}: {_listed(names, inside)} won every vote"
                f" against {_listed(names, ~inside)}, so the likelihood has no finite"
                " maximum; collect more votes, or leave out the models that never win"
                " or never lose"
            )


def _listed(names: Sequence[str], chosen: np.ndarray) -> str:
    return ", ".join(name for name, is_in in zip(names, chosen, strict=True) if is_in)


def estimate(
    tally: Tally, question: str, *, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Returns ratings and intervals of one question.

    The bootstrap draws as many votes as there are, with replacement; votes count as
    independent, and intervals are percentiles. A resample without a finite maximum
    counts as beyond both ends, so it never makes an interval too narrow.

    Args:
      tally: The votes on the question.
      question: Name of the question, for errors.
      resamples: Number of bootstrap resamples.
      seed: Seed of the resamples.

    Raises:
      UserError: The votes have no finite maximum; see `check`.
    """
    check(tally, question)
    rng = np.random.default_rng(seed)
    shares = tally.counts.ravel() / tally.votes
    drawn = rng.multinomial(tally.votes, shares, size=resamples)
    wins = wins_of(drawn.reshape(resamples, *tally.counts.shape))
    is_finite = has_maximum(wins)
    ratings = fit(wins[is_finite])
    unbounded = resamples - len(ratings)
    return Estimate(
        tally=tally,
        ratings=fit(wins_of(tally.counts)),
        interval=_interval(ratings, unbounded),
        difference_interval=_interval(
            ratings[:, :, None] - ratings[:, None, :], unbounded
        ),
        unbounded=unbounded,
    )


def _interval(
    values: Float[np.ndarray, "finite ..."], unbounded: int
) -> Float[np.ndarray, "2 ..."]:
    """Returns the percentile interval of values and `unbounded` infinite ones."""
    beyond = np.full((unbounded, *values.shape[1:]), np.inf)
    tail = (1 - LEVEL) / 2
    # Without interpolation, which is undefined between a number and infinity.
    low = np.quantile(np.concatenate([values, -beyond]), tail, 0, method="lower")
    high = np.quantile(np.concatenate([values, beyond]), 1 - tail, 0, method="higher")
    return np.stack([low, high])
