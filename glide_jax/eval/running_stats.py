"""Mean and covariance of any number of features, a batch at a time, in float64.

Batches are merged by Chan's rule (Chan, Golub, LeVeque 1979): no sum of squares is
ever taken around a far-off origin, so nothing cancels, and the order of the batches
changes the result by float64 rounding alone.
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
    """What a Frechet distance compares.

    Attributes:
      mu: (d,) float64.
      sigma: (d, d) float64, the unbiased covariance as numpy.cov gives it.
      count: Features it was taken of; 0: not told.
    """

    mu: np.ndarray
    sigma: np.ndarray
    count: int = 0

    @property
    def is_singular(self) -> bool:
        """True where so few features cannot span the space: rank below d."""
        return 0 < self.count <= len(self.mu)


class RunningMoments:
    """Running mean and scatter of features of d numbers."""

    def __init__(self, width: int):
        self.count = 0
        self._mean = np.zeros(width, np.float64)
        self._scatter = np.zeros((width, width), np.float64)

    def add(self, rows: Rows) -> None:
        """Takes in some more features (n, d), of any floating type."""
        rows = np.asarray(rows, np.float64)
        if not len(rows):
            return
        other = RunningMoments(len(self._mean))
        other.count, other._mean = len(rows), rows.mean(axis=0)
        centred = rows - other._mean
        other._scatter = centred.T @ centred
        self.merge(other)

    def merge(self, other: RunningMoments) -> None:
        """Takes in what another has seen."""
        total = self.count + other.count
        if not total:
            return
        shift = other._mean - self._mean
        weight = self.count * other.count / total
        self._scatter += other._scatter + weight * np.outer(shift, shift)
        self._mean = self._mean + shift * (other.count / total)
        self.count = total

    def gaussian(self) -> Gaussian:
        """Mean and covariance of all that was added.

        Raises:
          UserError: Fewer than two features, which have no covariance.
        """
        if self.count < 2:
            raise UserError(
                f"{wording.counted(self.count, 'picture')} given, of which there is no"
                " covariance; give at least 2"
            )
        # Rounding may leave it a hair off symmetry.
        scatter = (self._scatter + self._scatter.T) / 2
        return Gaussian(self._mean.copy(), scatter / (self.count - 1), self.count)
