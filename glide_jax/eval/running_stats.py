"""Computes mean and covariance of features batch by batch, in float64.

Batches are merged by the rule of Chan, Golub and LeVeque (1979). Sums of squares are
taken around the mean of a batch, so nothing cancels, and the order of the batches
changes the result by float64 rounding only.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from glide_jax.errors import UserError
from glide_jax.runtime import wording

Rows = Float[np.ndarray, "n d"]


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """A Gaussian, as a Frechet distance compares them.

    Attributes:
      mu: (d,) float64, the mean.
      sigma: (d, d) float64, the unbiased covariance as numpy.cov returns it.
      count: The number of features; 0 if unknown.
    """

    mu: np.ndarray
    sigma: np.ndarray
    count: int = 0

    @property
    def is_singular(self) -> bool:
        """Whether the covariance has a rank below d, because of too few features."""
        return 0 < self.count <= len(self.mu)


class RunningMoments:
    """Running mean and scatter of features of d numbers."""

    def __init__(self, width: int):
        self.count = 0
        self._mean = np.zeros(width, np.float64)
        self._scatter = np.zeros((width, width), np.float64)

    def add(self, rows: Rows) -> None:
        """Adds features (n, d) of any floating type."""
        rows = np.asarray(rows, np.float64)
        if not len(rows):
            return
        other = RunningMoments(len(self._mean))
        other.count, other._mean = len(rows), rows.mean(axis=0)
        centred = rows - other._mean
        other._scatter = centred.T @ centred
        self.merge(other)

    def merge(self, other: RunningMoments) -> None:
        """Adds the features of another instance."""
        total = self.count + other.count
        if not total:
            return
        shift = other._mean - self._mean
        weight = self.count * other.count / total
        self._scatter += other._scatter + weight * np.outer(shift, shift)
        self._mean = self._mean + shift * (other.count / total)
        self.count = total

    def gaussian(self) -> Gaussian:
        """Returns mean and covariance of all features.

        Raises:
          UserError: Fewer than two features were added.
        """
        if self.count < 2:
            raise UserError(
                f"{wording.counted(self.count, 'picture')} given for a covariance;"
                " give at least 2"
            )
        # Rounding may break the symmetry.
        scatter = (self._scatter + self._scatter.T) / 2
        return Gaussian(self._mean.copy(), scatter / (self.count - 1), self.count)
