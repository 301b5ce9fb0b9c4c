"""Mean and trace of a set of rows, gathered in parts and merged exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

__all__ = ["Moments"]


@dataclass
class MergingMoments:
    """Count and mean of rows, and a sum of squares of their deviations, all in float64.

    Parts merge by the pairwise formula of Chan, Golub and LeVeque, so a set that was gathered in any parts,
    in any order, on any number of machines, has the same statistics to rounding of float64.
    """

    count: int
    mean: Tensor

    @staticmethod
    def _squares(deviations: Tensor) -> Any:
        """Sum the squares of rows of deviations `(n, dim)`, in the form that the class keeps."""
        raise NotImplementedError

    @property
    def _kept(self) -> Any:
        """The sum of squares that the object holds."""
        raise NotImplementedError

    @classmethod
    def empty(cls, dim: int) -> Self:
        """Give the moments of no rows.

        Args:
            dim: Width of the rows.

        Returns:
            Moments that any others can be merged into.
        """
        return cls.of(torch.zeros(0, dim))

    @classmethod
    def of(cls, rows: Tensor) -> Self:
        """Compute the moments of one block of rows.

        Args:
            rows: `(n, dim)`.

        Returns:
            Their moments.
        """
        rows = rows.detach().to("cpu", torch.float64)
        mean = rows.sum(0) / max(len(rows), 1)
        return cls(len(rows), mean, cls._squares(rows - mean))  # type: ignore[call-arg]

    @property
    def dim(self) -> int:
        """Width of the rows."""
        return self.mean.shape[0]

    def update(self, rows: Tensor) -> Self:
        """Add a block of rows in place.

        Args:
            rows: `(n, dim)`.

        Returns:
            This object.
        """
        vars(self).update(vars(self.merge(self.of(rows))))
        return self

    def merge(self, other: Self) -> Self:
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
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / max(count, 1))
        between = self._squares(delta[None]) * (self.count * other.count / max(count, 1))
        return type(self)(count, mean, self._kept + other._kept + between)  # type: ignore[call-arg]


@dataclass
class Moments(MergingMoments):
    """Count, mean and sum of squared deviations of rows, all in float64.

    Parts merge by the pairwise formula of Chan, Golub and LeVeque, so a set that was gathered in any parts,
    in any order, on any number of machines, has the same statistics to rounding of float64.

    Attributes:
        count: Number of rows.
        mean: `(dim,)` float64.
        sq: Sum over the rows of ||row - mean||^2.
    """

    sq: float

    @staticmethod
    def _squares(deviations: Tensor) -> float:
        return float(deviations.square().sum())

    @property
    def _kept(self) -> float:
        return self.sq

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
    def trace(self) -> float:
        """Trace of the covariance, mean ||row - mean||^2 (divided by n, not n - 1); nan without rows."""
        return self.sq / self.count if self.count else float("nan")
