"""Measures of the gap in means and covariances, with intervals, from grouped moments of two sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_modalbridge.evaluation.gap_rows import Rows
from hf_modalbridge.functional import gap as metrics
from hf_modalbridge.functional.gap_pairs import displacement_ceiling
from hf_modalbridge.functional.geometry import normalize_rows
from hf_modalbridge.functional.resampling import GroupedMoments, interval, normal_interval, resample_weights

__all__ = ["Estimate", "SideMoments", "first_order", "gather_moments", "residual_measures", "second_order"]

SPECTRAL_SHARE = 8  # resamples of eigenvalues cost a decomposition each: one for every eight others


@dataclass
class Estimate:
    """A number and its 95 % bootstrap interval.

    Attributes:
        value: The number.
        low: Lower end, None where no interval was asked for or makes sense.
        high: Upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass
class SideMoments:
    """Moments of the unit rows of one set, whole and in resamples.

    Attributes:
        groups: Grouped moments.
        seed: Of the resamples.
        mean: `(dim,)`.
        covariance: `(dim, dim)`.
        spectrum: `(dim,)`, largest first.
        resampled: Spectra `(samples, dim)` and directions `(samples, dim, q)`, once they were asked for.
        kept: Mean cosine with the rows before the correction, for each group `(groups,)`; Phi times the counts.
        row_hashes: `(rows,)` int64 of the stored rows, and how many stored rows have a length other than one.
    """

    groups: GroupedMoments
    seed: int
    mean: Tensor
    covariance: Tensor
    spectrum: Tensor
    resampled: tuple[Tensor, Tensor] | None = None
    kept: Tensor | None = None
    row_hashes: Tensor | None = None
    not_unit: int = 0

    @property
    def trace(self) -> float:
        """Trace of the covariance."""
        return float(self.covariance.trace())

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.groups.count

    def weights(self, samples: int) -> Tensor:
        """Draw resamples of the groups, always the same ones, `(samples, groups)`."""
        return resample_weights(self.groups.groups, samples, self.seed)

    def resample(self, samples: int, q: int) -> tuple[Tensor, Tensor]:
        """Compute spectra and leading directions of resamples, once."""
        if self.resampled is None or len(self.resampled[0]) != samples:
            spectra, directions = [], []
            for _, covariance in self.groups.resamples(self.weights(samples)):
                values, vectors = torch.linalg.eigh(covariance)
                spectra.append(values.flip(0).clamp_min(0))
                directions.append(vectors.flip(1)[:, :q].float())
            self.resampled = torch.stack(spectra), torch.stack(directions)
        return self.resampled


def gather_moments(
    rows: Rows, seed: int, before: Rows | None = None, inspect: bool = False, tick: Callable[[int], object] = int
) -> SideMoments:
    """Go through a set once for its moments.

    Args:
        rows: The set.
        seed: Of groups and resamples.
        before: The same rows before a correction, for Phi.
        inspect: Also hash the stored rows and count those that do not have length one.
        tick: Called with the rows of each block.

    Returns:
        The moments.
    """
    groups = GroupedMoments.empty(rows.dim, len(rows))
    generator = torch.Generator().manual_seed(seed)
    kept = torch.zeros(groups.groups, dtype=torch.float64) if before is not None else None
    hashes: list[Tensor] = []
    odd = 0
    earlier = before.blocks() if before is not None else None
    for block in rows.blocks():
        unit = normalize_rows(block.double())
        blocks = -(-len(unit) // groups.groups)
        shuffled = torch.rand(blocks, groups.groups, generator=generator).argsort(1)
        group = shuffled.flatten()[: len(unit)]
        groups.update(unit, group)
        if earlier is not None and kept is not None:
            kept.index_add_(0, group, (normalize_rows(next(earlier).double()) * unit).sum(1))
        if inspect:
            norms = torch.linalg.vector_norm(block, dim=1)
            odd += int(((norms - 1).abs() > 0.01).sum())
            hashes.append(_hash_rows(block))
        tick(len(block))
    mean, covariance = groups.mean_and_covariance()
    spectrum = metrics.sorted_spectrum(covariance)
    found = torch.cat(hashes) if inspect else None
    return SideMoments(groups, seed, mean, covariance, spectrum, None, kept, found, odd)


def first_order(set_: SideMoments, goal: SideMoments, source: SideMoments | None, samples: int) -> dict[str, Estimate]:
    """Measure centroid gap, floor, trace ratio and, for a corrected set, Phi with its ceilings.

    Args:
        set_: Source or corrected source.
        goal: Target.
        source: For a corrected set: the source.
        samples: Resamples; 0 for no intervals.

    Returns:
        Estimates by name.
    """
    gap = float((set_.mean - goal.mean).norm())
    ratio = metrics.trace_ratio(set_.covariance, goal.covariance)
    phi = None if set_.kept is None else float(set_.kept.sum() / set_.count)
    out = {
        "gap": Estimate(gap),
        "gap_floor": Estimate(metrics.centroid_floor(set_.trace, set_.count, goal.trace, goal.count)),
        "trace_ratio": Estimate(ratio),
    }
    if phi is not None and source is not None:
        out["phi"] = Estimate(phi)
        out["phi_ceiling"] = Estimate(displacement_ceiling(source.mean, set_.mean))
        out["phi_ceiling_at_closed_gap"] = Estimate(displacement_ceiling(source.mean, goal.mean))
    if not samples:
        return out
    means, traces = zip(*(_means_and_traces(side, samples) for side in (set_, goal)), strict=True)
    factor = max(set_.groups.factor, goal.groups.factor)
    low, high = interval((means[0] - means[1]).norm(dim=1), centre=gap, factor=factor)
    out["gap"] = Estimate(gap, max(0.0, low), high)
    out["trace_ratio"] = Estimate(ratio, *interval(traces[0] / traces[1], centre=ratio, factor=factor))
    if phi is not None and set_.kept is not None:
        w = set_.weights(samples).double()
        out["phi"] = Estimate(phi, *interval((w @ set_.kept) / (w @ set_.groups.counts), factor=set_.groups.factor))
    return out


def second_order(set_: SideMoments, goal: SideMoments, q: int, samples: int) -> dict[str, Estimate]:
    """Measure G_Sigma, C_lambda, O_q, power-law exponent and effective ranks.

    Args:
        set_: Source, corrected source, or the target itself.
        goal: Target.
        q: Directions of O_q.
        samples: Resamples of the cheap measures; an eighth of them are drawn here.

    Returns:
        Estimates by name.
    """

    def measure(a: Tensor, b: Tensor, cov: tuple[Tensor, Tensor], u: tuple[Tensor, Tensor]) -> dict[str, float]:
        return {
            "covariance_gap": metrics.covariance_gap(*cov),
            "spectrum_correlation": metrics.spectrum_correlation(a, b),
            "subspace_overlap": metrics.subspace_overlap(*u),
            "exponent": metrics.power_law_exponent(a, trace=float(b.sum())),
            "effective_rank": metrics.effective_rank(a),
            "participation_ratio": metrics.participation_ratio(a),
        }

    frames = metrics.top_directions(set_.covariance, q), metrics.top_directions(goal.covariance, q)
    values = measure(set_.spectrum, goal.spectrum, (set_.covariance, goal.covariance), frames)
    count = samples // SPECTRAL_SHARE
    if count < 2:
        return {name: Estimate(value) for name, value in values.items()}
    (spectra, directions), (goal_spectra, goal_directions) = set_.resample(count, q), goal.resample(count, q)
    replicates: dict[str, list[float]] = {name: [] for name in values}
    resamples = set_.groups.resamples(set_.weights(count)), goal.groups.resamples(goal.weights(count))
    for i, ((_, covariance), (_, goal_covariance)) in enumerate(zip(*resamples, strict=True)):
        pair, frames = (covariance, goal_covariance), (directions[i], goal_directions[i])
        drawn = measure(spectra[i], goal_spectra[i], pair, frames)
        for name, value in drawn.items():
            replicates[name].append(value)
    factor = max(set_.groups.factor, goal.groups.factor)
    limits = {"covariance_gap": (0.0, None), "spectrum_correlation": (-1.0, 1.0), "subspace_overlap": (0.0, 1.0)}
    return {
        name: _clamped(value, normal_interval(replicates[name], value, factor), *limits.get(name, (None, None)))
        for name, value in values.items()
    }


def residual_measures(residual: Tensor, frame: Tensor, k: int, samples: int, seed: int) -> dict[str, Estimate]:
    """Measure the paired residual: D_center, A_r, E(K), d_eff / dim and eta_U.

    Args:
        residual: `(pairs, dim)` differences x - y of unit rows.
        frame: `(dim, r)` of eta_U.
        k: K of E(K).
        samples: Resamples of the cheap measures; an eighth of them are drawn here.
        seed: Of the resamples.

    Returns:
        Estimates by name.
    """
    groups = GroupedMoments.of(residual, seed)

    def measure(covariance: Tensor) -> dict[str, float]:
        spectrum = metrics.sorted_spectrum(covariance)
        return {
            "residual_trace": float(covariance.trace()),
            "anisotropy": metrics.anisotropy(spectrum),
            "residual_energy": float(metrics.cumulative_energy(spectrum)[k - 1]),
            "residual_dimensions": metrics.participation_ratio(spectrum) / len(spectrum),
            "frame_coverage": metrics.frame_coverage(covariance, frame),
        }

    values = measure(groups.mean_and_covariance()[1])
    count = samples // SPECTRAL_SHARE
    if count < 2:
        return {name: Estimate(value) for name, value in values.items()}
    drawn = [measure(cov) for _, cov in groups.resamples(resample_weights(groups.groups, count, seed))]
    return {
        name: Estimate(value, *normal_interval([d[name] for d in drawn], value, groups.factor))
        for name, value in values.items()
    }


def _clamped(value: float, ends: tuple[float, float], least: float | None, most: float | None) -> Estimate:
    low, high = ends
    return Estimate(value, low if least is None else max(least, low), high if most is None else min(most, high))


def _means_and_traces(side: SideMoments, samples: int) -> tuple[Tensor, Tensor]:
    """Compute means `(samples, dim)` and traces `(samples,)` of resamples."""
    w = side.weights(samples).double()
    counts = w @ side.groups.counts
    means = (w @ side.groups.sums) / counts[:, None]
    squares = side.groups.outers.diagonal(dim1=1, dim2=2).sum(1)
    return means, (w @ squares) / counts - means.square().sum(1)


def _hash_rows(rows: Tensor) -> Tensor:
    """Hash rows to int64 so that equal rows, and in practice only those, have equal numbers."""
    bits = rows.double().contiguous().view(torch.int64)
    odd = torch.randint(1, 2**62, (rows.shape[1],), generator=torch.Generator().manual_seed(1)) * 2 + 1
    return ((bits ^ (bits >> 29)) * odd).sum(1)
