"""Mean and covariance of a set of rows, gathered in parts and merged exactly, and powers of covariances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_modalbridge.functional.moments import MergingMoments, Moments

__all__ = ["CovarianceMoments", "symmetric_power"]


@dataclass
class CovarianceMoments(MergingMoments):
    """Count, mean and comoment (sum of outer products of deviations) of rows, all in float64.

    Parts merge by the pairwise formula of Chan, Golub and LeVeque, as `Moments` do; memory is dim x dim.

    Attributes:
        count: Number of rows.
        mean: `(dim,)` float64.
        comoment: `(dim, dim)` float64, sum over the rows of (row - mean)(row - mean)^T.
    """

    comoment: Tensor

    @staticmethod
    def _squares(deviations: Tensor) -> Tensor:
        return deviations.T @ deviations

    @property
    def _kept(self) -> Tensor:
        return self.comoment

    @property
    def covariance(self) -> Tensor:
        """Covariance `(dim, dim)`, divided by n, not n - 1; nan without rows."""
        return self.comoment / self.count if self.count else torch.full_like(self.comoment, float("nan"))

    @property
    def moments(self) -> Moments:
        """Count, mean and trace alone."""
        return Moments(self.count, self.mean, float(self.comoment.trace()))

    def marginal(self, start: int, stop: int) -> CovarianceMoments:
        """Give the moments of a range of columns, such as one side of rows that hold two sides.

        Args:
            start: First column.
            stop: Column after the last.

        Returns:
            Moments of width `stop - start`.
        """
        return CovarianceMoments(self.count, self.mean[start:stop], self.comoment[start:stop, start:stop])


def symmetric_power(matrix: Tensor, power: float, floor: float = 0.0) -> Tensor:
    """Compute a real power of a symmetric positive semi-definite matrix by its eigenvalues, in float64.

    Args:
        matrix: `(n, n)`; the mean of it and its transpose is taken.
        power: Such as 0.5 or -0.5.
        floor: Eigenvalues at most `floor` times the largest count as zero; for a negative power they stay
            zero, which makes the result a pseudo-inverse.

    Returns:
        `(n, n)` float64, symmetric.
    """
    values, vectors = torch.linalg.eigh((matrix + matrix.T).double() / 2)
    kept = values > max(floor, 1e-15) * values[-1].clamp_min(0)
    powers = torch.where(kept, values.clamp_min(1e-300).pow(power), torch.zeros_like(values))
    return (vectors * powers) @ vectors.T
