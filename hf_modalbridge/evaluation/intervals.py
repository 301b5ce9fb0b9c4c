"""Intervals of means: over items, over runs and their items, and over few runs alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["bootstrap_interval", "runs_interval", "student_interval"]

# two-sided 97.5 % quantile of Student's t by degrees of freedom from 1
_STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)


def bootstrap_interval(
    values: np.ndarray | Sequence[float], *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over items.

    Args:
        values: `(items,)`.
        level: Coverage.
        samples: Resamples.
        seed: Of the resamples.

    Returns:
        Lower and upper end.
    """
    values = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = np.array([values[rng.integers(0, len(values), len(values))].mean() for _ in range(samples)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def runs_interval(
    runs: Sequence[Sequence[float]] | np.ndarray,
    *,
    same_items: bool = False,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean over runs and their items, with its percentile bootstrap interval over both.

    Args:
        runs: Values of each run, `(items,)`, whose number may differ unless the items are the same.
        same_items: Whether item i is the same in all runs. It is then drawn for all at once, because what is hard
            for one run is hard for the others; otherwise each run draws its own items.
        level: Coverage.
        samples: Resamples.
        seed: Of the resamples.

    Returns:
        Mean of the runs' means, lower and upper end.
    """
    rng, arrays = np.random.default_rng(seed), [np.asarray(run, np.float64) for run in runs]
    means = []
    for _ in range(samples):
        drawn = [arrays[i] for i in rng.integers(len(arrays), size=len(arrays))]
        if same_items:
            items = rng.integers(len(drawn[0]), size=len(drawn[0]))
            means.append(np.mean([run[items].mean() for run in drawn]))
        else:
            means.append(np.mean([run[rng.integers(len(run), size=len(run))].mean() for run in drawn]))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(np.mean([run.mean() for run in arrays])), float(low), float(high)


def student_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean of few independent values and the half-width of its 95 % Student interval.

    Args:
        values: One a run, such as a seed.

    Returns:
        Mean and half-width; the latter is nan for a single value.
    """
    freedom = len(values) - 1
    if freedom < 1:
        return float(np.mean(values)), math.nan
    if freedom <= len(_STUDENT):
        quantile = _STUDENT[freedom - 1]
    else:  # Cornish and Fisher's expansion, right to four decimals from here on
        z = 1.959964
        first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
        third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
        quantile = z + first / freedom + second / freedom**2 + third / freedom**3
    return float(np.mean(values)), quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))
