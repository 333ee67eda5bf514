"""Distances between two sets of pictures, from their features.

1. Frechet distance                                          FID, 1706.08500, eq. 6
   |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^1/2)
2. Kernel distance, k(x, y) = (x.y / d + 1)^3                KID, 1801.01401, eq. 4
   the unbiased estimate of MMD^2; its authors average it over subsets, for speed
3. Inception Score, exp(mean KL(p(y|x) || p(y)))             1606.03498
4. Precision and recall, k = 3                               1904.06991, eq. 1 and 2
   share of one set within the manifold of the other: the union of balls around its
   points, each with the distance to its k-th neighbour as its radius
5. Diversity of the pictures of one prompt, u = f / |f|
   mean over prompts of the mean over pairs i < j of |u_i - u_j|^2
   This is LPIPS (1801.03924, eq. 1) with one layer, one position and unit weights, of
   the given features. It is not the published LPIPS, whose networks have several
   layers and whose weights are fitted to human judgements.

The conventions are those of OpenAI's evaluator (guided-diffusion/evaluations). All of
this is numpy in float64 on the host. (3) divides the pictures into parts by their
index. The others depend on no order; they read all pictures, block by block.
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
    """A value and its standard error; None: there are too few pictures for an error."""

    value: float
    standard_error: float | None


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1]: of samples that look real, and of real pictures covered."""

    precision: float
    recall: float


def frechet(first: running_stats.Gaussian, second: running_stats.Gaussian) -> float:
    """Returns eq. 1, at least 0.

    tr (S_1 S_2)^1/2 is the sum of the singular values of S_1^1/2 S_2^1/2. Both roots
    are real and symmetric, so no complex number occurs, and a singular covariance needs
    no added constant.
    """
    shift = first.mu - second.mu
    cross = _root(first.sigma) @ _root(second.sigma)
    nuclear = np.linalg.svd(cross, compute_uv=False).sum()
    traces = np.trace(first.sigma) + np.trace(second.sigma)
    return max(0.0, float(shift @ shift + traces - 2 * nuclear))


def kernel(first: Rows, second: OtherRows) -> Estimate:
    """Returns eq. 2 over all pairs; it is unbiased and may be negative.

    The standard error is that of the jackknife, which leaves out one picture of either
    set. For two sets of one distribution it is too large by a factor of about 1.4.
    30,000 pictures against 40,000 take 20 TFLOP, minutes on a few cores.

    Args:
      first: Features; at least 2, and at least 3 for a standard error.
      second: Features of the other set, with the same minimum.
    """
    n, m = len(first), len(second)
    within_first, within_second = _kernel_sums(first), _kernel_sums(second)
    across_first, across_second = (
        _kernel_sums(first, second),
        _kernel_sums(second, first),
    )

    def squared_mmd(n, m, first_sum, second_sum, across_sum):
        means = first_sum / (n * (n - 1)) + second_sum / (m * (m - 1))
        return means - 2 * across_sum / (n * m)

    a, b, c = within_first.sum(), within_second.sum(), across_first.sum()
    value = float(squared_mmd(n, m, a, b, c))
    if min(n, m) < 3:
        return Estimate(value, None)
    # Within its own set a picture is counted twice, as the first and the second.
    without_first = squared_mmd(n - 1, m, a - 2 * within_first, b, c - across_first)
    without_second = squared_mmd(n, m - 1, a, b - 2 * within_second, c - across_second)
    # (count - 1) / count of the sum of squares for each set.
    variance = (n - 1) * without_first.var() + (m - 1) * without_second.var()
    return Estimate(value, float(np.sqrt(variance)))


def inception_score(logits: Logits, *, split_size: int = INCEPTION_SPLIT) -> float:
    """Returns eq. 3, at least 1: the mean over parts of consecutive pictures.

    All parts have equal weight, so the remainder is a part of its own only if it is at
    least half of one, and else belongs to the part before it.

    Args:
      logits: Logits of the pictures, in the order of their indices.
      split_size: Pictures of a part.
    """
    scores = []
    count = max(1, (len(logits) + split_size // 2) // split_size)
    for part in range(count):
        stop = len(logits) if part == count - 1 else (part + 1) * split_size
        log_p = _log_softmax(_wide(logits[part * split_size : stop]))
        p = np.exp(log_p)
        # 0 log 0 is 0: an empty class has weight 0 below.
        log_marginal = np.log(np.maximum(p.mean(axis=0), np.finfo(np.float64).tiny))
        scores.append(np.exp((p * (log_p - log_marginal)).sum(axis=1).mean()))
    return float(np.mean(scores))


def precision_recall(
    samples: Rows, reference: OtherRows, *, neighbours: int = NEIGHBOURS
) -> PrecisionRecall:
    """Returns eq. 4; a point is not its own neighbour, and balls are closed.

    Distances are computed in blocks, so memory does not grow with n m.
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
    """Returns the symmetric root; eigenvalues negative by rounding count as 0."""
    values, vectors = np.linalg.eigh(sigma)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _wide(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows, np.float64)


def _kernel_sums(rows: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Returns (n,) kernel sums of each row with the others, or with its own set."""
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
    """Returns (n,) squared distances of each point to its k-th neighbour.

    With fewer than k others, it is the distance to the farthest of them.
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
    """Returns (n, m) squared distances, at least 0.

    Points are taken around the mean of one block, so little cancels where all points
    are far from the origin and near each other.
    """
    x, y = _wide(x), _wide(y)
    centre = y.mean(axis=0)
    x, y = x - centre, y - centre
    lengths = (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1)
    return np.maximum(lengths - 2 * x @ y.T, 0.0)
