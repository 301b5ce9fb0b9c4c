"""Bootstrap intervals: resampled rows as weights, so that one pass over the values serves all resamples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["GroupedMoments", "interval", "mean_replicates", "normal_interval", "resample_weights"]

_GROUP_BYTES = 1 << 28


def resample_weights(rows: int, samples: int, seed: int = 0) -> Tensor:
    """Draw bootstrap resamples: how often each row is in each.

    Equal arguments give equal resamples, so that values of two methods on the same rows can be compared in pairs.

    Args:
        rows: Rows to resample.
        samples: Resamples.
        seed: Of the draw.

    Returns:
        `(samples, rows)` float32 counts; each line sums to `rows`.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = torch.zeros(samples, rows)
    for line in weights:
        drawn = torch.randint(rows, (rows,), generator=generator)
        line.copy_(torch.bincount(drawn, minlength=rows))
    return weights


def mean_replicates(values: Tensor, weights: Tensor) -> Tensor:
    """Compute the mean of the values in each resample.

    Args:
        values: `(rows,)`.
        weights: `(samples, rows)` from `resample_weights`.

    Returns:
        `(samples,)` float64.
    """
    return (weights @ values.to(weights.dtype)).double() / values.shape[0]


def interval(
    replicates: Tensor | Sequence[float], level: float = 0.95, centre: float | None = None, factor: float = 1.0
) -> tuple[float, float]:
    """Give the percentile interval of bootstrap replicates.

    A distance between samples is larger in every resample than in the sample, because resampling adds noise to
    both sides; its percentiles can even miss the estimate. `centre` shifts the replicates so that their mean is
    the estimate, which removes that bias.

    Args:
        replicates: `(samples,)`; those that are not finite are left out.
        level: Coverage.
        centre: Estimate to shift the replicates to, or None for plain percentiles.
        factor: Widens the interval around the mean of the replicates (`GroupedMoments.factor`).

    Returns:
        Lower and upper end; nan without replicates.
    """
    values = torch.as_tensor(replicates, dtype=torch.float64)
    values = values[values.isfinite()]
    if not len(values):
        return float("nan"), float("nan")
    mean = values.mean()
    values = (mean if centre is None else centre) + (values - mean) * factor
    low, high = torch.quantile(values, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return low, high


def normal_interval(replicates: Tensor | Sequence[float], centre: float, factor: float = 1.0) -> tuple[float, float]:
    """Give the estimate plus and minus 1.96 standard deviations of its replicates.

    For measures whose replicates are too costly for percentiles, which need some hundreds; this needs some tens.

    Args:
        replicates: `(samples,)`; those that are not finite are left out.
        centre: The estimate.
        factor: Widens the interval (`GroupedMoments.factor`).

    Returns:
        Lower and upper end of the 95 % interval; nan below two replicates.
    """
    values = torch.as_tensor(replicates, dtype=torch.float64)
    values = values[values.isfinite()]
    half = 1.959964 * factor * float(values.std()) if len(values) > 1 else float("nan")
    return centre - half, centre + half


@dataclass
class GroupedMoments:
    """Counts, sums and sums of outer products of rows in random groups, all in float64.

    The groups make a bootstrap of covariances possible on data that does not fit in memory: rows fall into
    groups at random while they stream by, and then whole groups are resampled. With as many groups as rows that
    is the bootstrap of rows.

    Attributes:
        counts: `(groups,)`.
        sums: `(groups, dim)`.
        outers: `(groups, dim, dim)`.
    """

    counts: Tensor
    sums: Tensor
    outers: Tensor

    @classmethod
    def empty(cls, dim: int, rows: int) -> GroupedMoments:
        """Give groups without rows: 64, fewer for wide embeddings so that they stay below 256 MiB, or few rows.

        Args:
            dim: Width of the rows.
            rows: Rows that will come.

        Returns:
            The groups, at least 12 of them where there are as many rows.
        """
        groups = max(1, min(rows, 64, max(12, _GROUP_BYTES // (8 * dim * dim))))
        kind = torch.float64
        return cls(torch.zeros(groups, dtype=kind), torch.zeros(groups, dim, dtype=kind),
                   torch.zeros(groups, dim, dim, dtype=kind))  # fmt: skip

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.counts)

    @property
    def count(self) -> int:
        """Number of rows."""
        return int(self.counts.sum())

    @property
    def factor(self) -> float:
        """Widening of intervals for few groups: their spread is measured with groups - 1 degrees of freedom.

        Student's 97.5 % quantile over the normal one, to second order, times sqrt(groups / (groups - 1)).
        """
        free = max(1, self.groups - 1)
        return (1 + 1.21 / free + 1.4 / free**2) * ((free + 1) / free) ** 0.5

    def update(self, rows: Tensor, group: Tensor) -> None:
        """Add a block of rows in place.

        Args:
            rows: `(n, dim)`.
            group: `(n,)` int64, the group of each row.
        """
        rows = rows.double()
        order = group.argsort(stable=True)
        sizes = torch.bincount(group, minlength=self.groups)
        for number, part in enumerate(rows[order].split(sizes.tolist())):
            if len(part):
                self.counts[number] += len(part)
                self.sums[number] += part.sum(0)
                self.outers[number].addmm_(part.T, part)

    @classmethod
    def of(cls, rows: Tensor, seed: int = 0) -> GroupedMoments:
        """Group rows that are in memory, in groups of equal size but for one row.

        Args:
            rows: `(n, dim)`.
            seed: Of the groups.

        Returns:
            Their grouped moments.
        """
        moments = cls.empty(rows.shape[1], len(rows))
        generator = torch.Generator().manual_seed(seed)
        moments.update(rows, torch.randperm(len(rows), generator=generator) % moments.groups)
        return moments

    def mean_and_covariance(self, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Give mean and covariance, of all rows or of one resample of groups.

        Args:
            weights: `(groups,)` how often each group counts; None: once.

        Returns:
            Mean `(dim,)` and covariance `(dim, dim)`, divided by the number of rows.
        """
        w = torch.ones_like(self.counts) if weights is None else weights.double()
        return next(self.resamples(w[None]))

    def resamples(self, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Give mean and covariance of many resamples; the outer products are read once for several.

        Args:
            weights: `(samples, groups)` from `resample_weights`.

        Yields:
            Mean `(dim,)` and covariance `(dim, dim)` of each.
        """
        dim = self.sums.shape[1]
        for part in weights.double().split(max(1, _GROUP_BYTES // (16 * dim * dim))):
            counts = part @ self.counts
            means = (part @ self.sums) / counts[:, None]
            seconds = (part @ self.outers.view(self.groups, -1)).view(-1, dim, dim)
            for count, mean, second in zip(counts, means, seconds, strict=True):
                yield mean, (second / count).addr_(mean, mean, alpha=-1)
