"""Precision and recall with the float16 distances of OpenAI's evaluator.

The evaluator (guided-diffusion/evaluations) computes the squared distance of features u
and v as |u|^2 - 2 u.v + |v|^2, and rounds the features and the result of each operation
to float16. A block of 10,000 by 10,000 distances in which one overflows is computed in
float32 instead. `distances.precision_recall` is the exact counterpart.

Inception's features are far from the origin in comparison with the distances between
them, so the terms are large and their difference keeps few digits: many distances are
equal, and an equal distance is within a ball. Precision and recall come out too high.

Sums are accumulated in float32 and rounded once. TensorFlow on a CPU accumulates
squared lengths in float16, in an order that depends on the processor, so the last digit
of some of them differs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from glide_jax.eval import distances

BLOCK = 10_000  # rows; part of the algorithm, see above
_TILE = 1024  # rows that are computed at once


def precision_recall(
    samples: distances.Rows,
    reference: distances.OtherRows,
    *,
    neighbours: int = distances.NEIGHBOURS,
) -> distances.PrecisionRecall:
    """Returns precision and recall as `distances.precision_recall` defines them.

    The radius of a ball is the distance at position `neighbours` of the sorted
    distances from its centre, which include the centre itself.
    """
    real_radii = _squared_radii(reference, neighbours)
    drawn_radii = _squared_radii(samples, neighbours)
    is_precise = np.zeros(len(samples), bool)
    is_recalled = np.zeros(len(reference), bool)
    for rows in _blocks(reference):
        for columns in _blocks(samples):
            squared = squared_distances(reference[rows], samples[columns])
            is_recalled[rows] |= (squared <= drawn_radii[columns]).any(axis=1)
            is_precise[columns] |= (squared <= real_radii[rows, None]).any(axis=0)
    return distances.PrecisionRecall(
        float(is_precise.mean()), float(is_recalled.mean())
    )


def squared_distances(u: distances.Rows, v: distances.OtherRows) -> np.ndarray:
    """Returns (n, m) distances of a block; float32 if one overflows in float16."""
    with np.errstate(over="ignore", invalid="ignore"):
        squared = _rounded_distances(u, v, np.float16)
    if np.isfinite(squared).all():
        return squared
    return _rounded_distances(u, v, np.float32)


def _rounded_distances(u: np.ndarray, v: np.ndarray, dtype: type) -> np.ndarray:
    u, v = u.astype(dtype), v.astype(dtype)
    v_lengths, v_wide = _squared_lengths(v), v.astype(np.float32)
    block = np.empty((len(u), len(v)), dtype)
    for start in range(0, len(u), _TILE):
        rows = u[start : start + _TILE]
        products = (rows.astype(np.float32) @ v_wide.T).astype(dtype)
        squared = _squared_lengths(rows)[:, None] - dtype(2) * products + v_lengths
        block[start : start + _TILE] = np.maximum(squared, dtype(0))
    return block


def _squared_lengths(rows: np.ndarray) -> np.ndarray:
    return np.square(rows).sum(axis=1, dtype=np.float32).astype(rows.dtype)


def _squared_radii(rows: np.ndarray, neighbours: int) -> np.ndarray:
    """Returns (n,) float32 radii; the largest distance if neighbours are too few."""
    position = min(neighbours, len(rows) - 1)
    radii = np.empty(len(rows), np.float32)
    for block in _blocks(rows):
        nearest = np.empty((len(rows[block]), 0), np.float32)
        for columns in _blocks(rows):
            squared = squared_distances(rows[block], rows[columns])
            squared = squared.astype(np.float32)
            kept = min(position, squared.shape[1] - 1)
            squared = np.partition(squared, kept, axis=1)[:, : position + 1]
            nearest = np.concatenate([nearest, squared], axis=1)
        radii[block] = np.sort(nearest, axis=1)[:, position]
    return radii


def _blocks(rows: np.ndarray) -> Iterator[slice]:
    return (slice(i, i + BLOCK) for i in range(0, len(rows), BLOCK))
