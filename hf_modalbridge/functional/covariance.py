"""Mean and covariance of a set of rows, gathered in parts and merged exactly, and powers of covariances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_modalbridge.functional.moments import Moments

__all__ = ["CovarianceMoments", "symmetric_power"]


@dataclass
class CovarianceMoments:
    """Count, mean and comoment (sum of outer products of deviations) of rows, all in float64.

    Parts merge by the pairwise formula of Chan, Golub and LeVeque, as `Moments` do; memory is dim x dim.

    Attributes:
        count: Number of rows.
        mean: `(dim,)` float64.
        comoment: `(dim, dim)` float64, sum over the rows of (row - mean)(row - mean)^T.
    """

    count: int
    mean: Tensor
    comoment: Tensor

    @classmethod
    def empty(cls, dim: int) -> CovarianceMoments:
        """Give the moments of no rows.

        Args:
            dim: Width of the rows.

        Returns:
            Moments that any others can be merged into.
        """
        return cls(0, torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64))

    @classmethod
    def of(cls, rows: Tensor) -> CovarianceMoments:
        """Compute the moments of one block of rows.

        Args:
            rows: `(n, dim)`.

        Returns:
            Their moments.
        """
        if not len(rows):
            return cls.empty(rows.shape[-1])
        rows = rows.detach().to("cpu", torch.float64)
        mean = rows.mean(0)
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred)

    @property
    def dim(self) -> int:
        """Width of the rows."""
        return self.mean.shape[0]

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

    def update(self, rows: Tensor) -> CovarianceMoments:
        """Add a block of rows in place.

        Args:
            rows: `(n, dim)`.

        Returns:
            This object.
        """
        merged = self.merge(CovarianceMoments.of(rows))
        self.count, self.mean, self.comoment = merged.count, merged.mean, merged.comoment
        return self

    def merge(self, other: CovarianceMoments) -> CovarianceMoments:
        """Combine the moments of two disjoint sets of rows.

        Args:
            other: Moments of the same width.

        Returns:
            The moments of both sets together.

        Raises:
            ValueError: If the widths differ.
        """
        if self.dim != other.dim:
            raise ValueError(
                f"cannot merge covariances of width {self.dim} and {other.dim}: they come from different "
                "encoders. Fit on embeddings of one encoder."
            )
        if not self.count or not other.count:
            kept = self if self.count else other
            return CovarianceMoments(kept.count, kept.mean.clone(), kept.comoment.clone())
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        comoment = (self.comoment + other.comoment).addr_(delta, delta, alpha=self.count * other.count / count)
        return CovarianceMoments(count, mean, comoment)


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
