"""Mean and trace of a set of rows, gathered in parts and merged exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Moments"]


@dataclass
class Moments:
    """Count, mean and sum of squared deviations of rows, all in float64.

    Parts merge by the pairwise formula of Chan, Golub and LeVeque, so a set that was gathered in any parts,
    in any order, on any number of machines, has the same statistics to rounding of float64.

    Attributes:
        count: Number of rows.
        mean: `(dim,)` float64.
        sq: Sum over the rows of ||row - mean||^2.
    """

    count: int
    mean: Tensor
    sq: float

    @classmethod
    def empty(cls, dim: int) -> Moments:
        """Give the moments of no rows.

        Args:
            dim: Width of the rows.

        Returns:
            Moments that any others can be merged into.
        """
        return cls(0, torch.zeros(dim, dtype=torch.float64), 0.0)

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
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
        return cls(len(rows), mean, float((rows - mean).square().sum()))

    @classmethod
    def of_unit_sum(cls, total: Tensor, count: int) -> Moments:
        """Compute the moments of unit rows from their sum alone: sum ||x - mu||^2 = n (1 - ||mu||^2).

        Args:
            total: Sum `(dim,)` of the rows, float64.
            count: Number of rows, at least one.

        Returns:
            Their moments.
        """
        mean = total.double() / count
        return cls(count, mean, count * max(0.0, 1.0 - float(mean @ mean)))

    @property
    def dim(self) -> int:
        """Width of the rows."""
        return self.mean.shape[0]

    @property
    def trace(self) -> float:
        """Trace of the covariance, mean ||row - mean||^2 (divided by n, not n - 1); nan without rows."""
        return self.sq / self.count if self.count else float("nan")

    def update(self, rows: Tensor) -> Moments:
        """Add a block of rows in place.

        Args:
            rows: `(n, dim)`.

        Returns:
            This object.
        """
        merged = self.merge(Moments.of(rows))
        self.count, self.mean, self.sq = merged.count, merged.mean, merged.sq
        return self

    def merge(self, other: Moments) -> Moments:
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
                f"cannot merge statistics of width {self.dim} and {other.dim}: they come from different "
                "encoders. Fit on embeddings of one encoder."
            )
        if not self.count or not other.count:
            kept = self if self.count else other
            return Moments(kept.count, kept.mean.clone(), kept.sq)
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        sq = self.sq + other.sq + float(delta @ delta) * self.count * other.count / count
        return Moments(count, mean, sq)
