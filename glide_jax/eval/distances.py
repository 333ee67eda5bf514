"""How far apart are two sets of pictures, by their features?

1. Frechet distance                                          FID, 1706.08500, eq. 6
   |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^1/2)
2. Kernel distance, k(x, y) = (x.y / d + 1)^3                KID, 1801.01401, eq. 4
   the unbiased estimate of MMD^2; its authors average it over subsets, for speed
3. Inception Score, exp(mean KL(p(y|x) || p(y)))             1606.03498
4. Precision and recall, k = 3                               1904.06991, eq. 1 and 2
   share of one set within the manifold of the other: the union of balls around its
   points, each as wide as the way to its k-th neighbour
5. Diversity of the pictures of one prompt, u = f / |f|
   mean over prompts of the mean over pairs i < j of |u_i - u_j|^2
   This is LPIPS (1801.03924, eq. 1) with one layer, one position and unit weights, of
   the features at hand. It is not the published LPIPS, whose networks have several
   layers and whose weights are fitted to human judgements.

Conventions are those of OpenAI's evaluator (guided-diffusion/evaluations). Everything
is numpy in float64 on the host. (3) divides the pictures into parts, by their index: so
it depends on which picture is which, but not on when it was drawn. The others take all
pictures at once, block by block, and depend on no order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from glide_jax.eval import running_stats

Rows = Float[np.ndarray, "n d"]
OtherRows = Float[np.ndarray, "m d"]
Logits = Float[np.ndarray, "n classes"]

INCEPTION_SPLIT = 5000  # pictures of a part: the evaluator's, 10 of 50,000
NEIGHBOURS = 3
_TILE = 2048  # rows of a block of distances: 34 MB


class Estimate(NamedTuple):
    """A figure and its standard error; None: too few pictures tell of one."""

    value: float
    standard_error: float | None


class PrecisionRecall(NamedTuple):
    """Shares, 0 to 1: of samples that look real, of reality that is sampled."""

    precision: float
    recall: float


def frechet(first: running_stats.Gaussian, second: running_stats.Gaussian) -> float:
    """Eq. 1, at least 0.

    tr (S_1 S_2)^1/2 is the sum of the singular values of S_1^1/2 S_2^1/2. Both roots
    are real and symmetric, so nothing complex arises and no constant has to be added
    to a singular covariance.
    """
    shift = first.mu - second.mu
    cross = _root(first.sigma) @ _root(second.sigma)
    nuclear = np.linalg.svd(cross, compute_uv=False).sum()
    traces = np.trace(first.sigma) + np.trace(second.sigma)
    return max(0.0, float(shift @ shift + traces - 2 * nuclear))


def kernel(first: Rows, second: OtherRows) -> Estimate:
    """Eq. 2 of all pairs; may be below 0, being unbiased.

    The standard error is the jackknife's: how the figure changes when a picture is left
    out, of either set. Of two sets of one distribution it is too large, by a factor of
    about 1.4. 30,000 pictures against 40,000 take 20 TFLOP, minutes on a few cores.

    Args:
      first, second: Features; n and m at least 2, and for an error at least 3.
    """
    n, m = len(first), len(second)
    of_first, of_second = _kernel_sums(first), _kernel_sums(second)
    of_both, of_both_too = _kernel_sums(first, second), _kernel_sums(second, first)

    def squared_mmd(n, m, within_first, within_second, across):
        means = within_first / (n * (n - 1)) + within_second / (m * (m - 1))
        return means - 2 * across / (n * m)

    a, b, c = of_first.sum(), of_second.sum(), of_both.sum()
    value = float(squared_mmd(n, m, a, b, c))
    if min(n, m) < 3:
        return Estimate(value, None)
    # What a picture adds within its set it adds twice, as the first and the second.
    without_first = squared_mmd(n - 1, m, a - 2 * of_first, b, c - of_both)
    without_second = squared_mmd(n, m - 1, a, b - 2 * of_second, c - of_both_too)
    # (count - 1) / count of the sum of squares, of each set.
    variance = (n - 1) * without_first.var() + (m - 1) * without_second.var()
    return Estimate(value, float(np.sqrt(variance)))


def inception_score(logits: Logits, *, split_size: int = INCEPTION_SPLIT) -> float:
    """Eq. 3, at least 1: the mean over parts of `split_size` neighbours by index.

    Every part weighs the same, so what is left over makes a part only where it is half
    of one or more, and else belongs to the part before it.
    """
    scores = []
    count = max(1, (len(logits) + split_size // 2) // split_size)
    for part in range(count):
        stop = len(logits) if part == count - 1 else (part + 1) * split_size
        log_p = _log_softmax(_wide(logits[part * split_size : stop]))
        p = np.exp(log_p)
        # 0 log 0 is 0: a class that nothing belongs to has weight 0 below.
        log_marginal = np.log(np.maximum(p.mean(axis=0), np.finfo(np.float64).tiny))
        scores.append(np.exp((p * (log_p - log_marginal)).sum(axis=1).mean()))
    return float(np.mean(scores))


def precision_recall(
    samples: Rows, reference: OtherRows, *, neighbours: int = NEIGHBOURS
) -> PrecisionRecall:
    """Eq. 4; a point is no neighbour of itself, and an edge belongs to its ball.

    Distances are made in blocks, so that memory does not grow with n m.
    """
    real_radii = _squared_radii(reference, neighbours)
    drawn_radii = _squared_radii(samples, neighbours)
    is_precise = np.zeros(len(samples), bool)
    is_recalled = np.zeros(len(reference), bool)
    for i in range(0, len(samples), _TILE):
        rows = slice(i, i + _TILE)
        for j in range(0, len(reference), _TILE):
            others = slice(j, j + _TILE)
            squared = _squared_distances(samples[rows], reference[others])
            is_precise[rows] |= (squared <= real_radii[others]).any(axis=1)
            within = squared <= drawn_radii[rows, None]
            is_recalled[others] |= within.any(axis=0)
    return PrecisionRecall(float(is_precise.mean()), float(is_recalled.mean()))


def diversity(features: Rows, prompts: Sequence[str]) -> Estimate:
    """Returns eq. 5, in [0, 4]; in [0, 2] for features that are nowhere negative.

    Pairs are not enumerated: with S the sum of the n unit features of a prompt, the
    squared distances of its pairs have the sum n^2 - |S|^2. The standard error is that
    of the mean over prompts.

    Args:
      features: n features, of any lengths above 0.
      prompts: n prompts; those of a single picture are left out, and at least one has
        two pictures.
    """
    rows = _wide(features)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    _, groups, counts = np.unique(prompts, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), rows.shape[1]))
    np.add.at(sums, groups, rows)
    sums, counts = sums[counts > 1], counts[counts > 1]
    squared = (sums * sums).sum(axis=1)
    by_prompt = 2 * (counts * counts - squared) / (counts * (counts - 1))
    by_prompt = np.maximum(by_prompt, 0.0)  # rounding
    if len(counts) < 2:
        return Estimate(float(by_prompt.mean()), None)
    error = by_prompt.std(ddof=1) / np.sqrt(len(counts))
    return Estimate(float(by_prompt.mean()), float(error))


def _root(sigma: np.ndarray) -> np.ndarray:
    """The symmetric root; eigenvalues that rounding made negative count as 0."""
    values, vectors = np.linalg.eigh(sigma)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _wide(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows, np.float64)


def _kernel_sums(rows: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """(n,) the kernel of each row with all others, or with all its fellows."""
    sums = np.zeros(len(rows))
    columns = rows if others is None else others
    for i in range(0, len(rows), _TILE):
        x = _wide(rows[i : i + _TILE])
        for j in range(0, len(columns), _TILE):
            values = _polynomial(x, _wide(columns[j : j + _TILE]))
            if others is None and i == j:
                np.fill_diagonal(values, 0)
            sums[i : i + _TILE] += values.sum(axis=1)
    return sums


def _polynomial(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base = x @ y.T / x.shape[1] + 1
    return base * base * base


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _squared_radii(rows: np.ndarray, neighbours: int) -> np.ndarray:
    """(n,) squared distance of each point to its k-th neighbour.

    Fewer than k others: the farthest of them.
    """
    radii = np.zeros(len(rows))
    for i in range(0, len(rows), _TILE):
        nearest = np.empty((len(rows[i : i + _TILE]), 0))
        for j in range(0, len(rows), _TILE):
            squared = _squared_distances(rows[i : i + _TILE], rows[j : j + _TILE])
            if i == j:
                np.fill_diagonal(squared, np.inf)
            nearest = np.concatenate([nearest, squared], axis=1)
            nearest.partition(min(neighbours, nearest.shape[1] - 1), axis=1)
            nearest = nearest[:, : neighbours + 1]
        nearest = np.sort(nearest, axis=1)
        kth = min(neighbours, len(rows) - 1) - 1
        radii[i : i + _TILE] = nearest[:, kth]
    return radii


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, m), at least 0.

    Around the mean of one block, so that little cancels where all points lie far from
    the origin and near each other.
    """
    x, y = _wide(x), _wide(y)
    centre = y.mean(axis=0)
    x, y = x - centre, y - centre
    lengths = (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1)
    return np.maximum(lengths - 2 * x @ y.T, 0.0)
