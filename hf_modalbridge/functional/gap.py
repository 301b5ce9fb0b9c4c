"""The modality gap in means and covariances: distances of two sets that need no pairs.

Means are `(dim,)` and covariances `(dim, dim)` of unit rows, divided by n. Everything is computed in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "anisotropy",
    "centroid_floor",
    "covariance_gap",
    "cumulative_energy",
    "effective_rank",
    "frame_coverage",
    "leading_count",
    "participation_ratio",
    "power_law_exponent",
    "spectrum_correlation",
    "sorted_spectrum",
    "subspace_overlap",
    "top_directions",
    "trace_ratio",
]

_RELATIVE_FLOOR = 1e-12  # eigenvalues below this share of the largest are rounding,
_ABSOLUTE_FLOOR = 1e-15  # and so are those below this, since rows have length one


def centroid_floor(trace_a: float, count_a: int, trace_b: float, count_b: int) -> float:
    """Give the centroid gap that two samples of one distribution show by chance: sqrt(T_a / n_a + T_b / n_b).

    The expected squared distance of two sample means is the true one plus the squared floor, so a gap near the
    floor says nothing about the method (arXiv 2605.07825, appendix B prints such a number). For paired rows pass
    the trace of the residual and one infinite count: sqrt(tr Sigma_r / n).

    Args:
        trace_a: Trace of the covariance of one set.
        count_a: Its rows.
        trace_b: The same for the other set.
        count_b: Its rows.

    Returns:
        Root mean squared distance.
    """
    return float((trace_a / count_a + trace_b / count_b) ** 0.5)


def trace_ratio(covariance_a: Tensor, covariance_b: Tensor) -> float:
    """Compare total variances, tr Sigma_a / tr Sigma_b (arXiv 2602.07026, section 4.2; its scale s, squared).

    Args:
        covariance_a: `(dim, dim)` of the set that is judged.
        covariance_b: `(dim, dim)` of the target.

    Returns:
        The ratio; 1 is a perfect match.
    """
    return float(covariance_a.double().trace() / covariance_b.double().trace())


def covariance_gap(covariance_a: Tensor, covariance_b: Tensor, eps: float = 1e-12) -> float:
    """Measure G_Sigma = ||Sigma_b - Sigma_a||_F / (||Sigma_b||_F + eps) (arXiv 2605.07825, section 3).

    Args:
        covariance_a: `(dim, dim)` of the set that is judged.
        covariance_b: `(dim, dim)` of the target.
        eps: Keeps a target without spread finite.

    Returns:
        0 for equal covariances; about 1 where nothing agrees.
    """
    a, b = covariance_a.double(), covariance_b.double()
    return float((b - a).norm() / (b.norm() + eps))


def sorted_spectrum(covariance: Tensor) -> Tensor:
    """Give the eigenvalues of a covariance, largest first, none below zero.

    Args:
        covariance: `(dim, dim)`, symmetric.

    Returns:
        `(dim,)` float64.
    """
    return torch.linalg.eigvalsh(covariance.double()).flip(0).clamp_min(0)


def top_directions(covariance: Tensor, q: int) -> Tensor:
    """Give the eigenvectors of the q largest eigenvalues.

    Args:
        covariance: `(dim, dim)`, symmetric.
        q: How many, 1 to dim.

    Returns:
        `(dim, q)` float64 with orthonormal columns.

    Raises:
        ValueError: If q is out of range.
    """
    if not 1 <= q <= len(covariance):
        raise ValueError(f"q directions of a covariance of width {len(covariance)} means q from 1 to it; got {q}.")
    return torch.linalg.eigh(covariance.double())[1].flip(1)[:, :q]


def leading_count(spectrum: Tensor) -> int:
    """Count the eigenvalues that are more than rounding; with fewer rows than dimensions the others are zero.

    Args:
        spectrum: `(dim,)`, largest first.

    Returns:
        Their number.
    """
    return int((spectrum > max(_RELATIVE_FLOOR * float(spectrum[0]), _ABSOLUTE_FLOOR)).sum())


def spectrum_correlation(spectrum_a: Tensor, spectrum_b: Tensor) -> float:
    """Measure C_lambda, the correlation of the logarithms of sorted eigenvalues (arXiv 2605.07825, section 3).

    Args:
        spectrum_a: `(dim,)`, largest first.
        spectrum_b: The same for the target.

    Returns:
        Pearson correlation over the ranks where both are more than rounding; nan below two ranks.
    """
    used = min(leading_count(spectrum_a), leading_count(spectrum_b))
    if used < 2:
        return float("nan")
    return float(torch.corrcoef(torch.stack([spectrum_a[:used].double(), spectrum_b[:used].double()]).log())[0, 1])


def subspace_overlap(directions_a: Tensor, directions_b: Tensor) -> float:
    """Measure O_q = ||U_a^T U_b||_F^2 / q (arXiv 2605.07825, section 3); two random subspaces have q / dim.

    Args:
        directions_a: `(dim, q)`, orthonormal columns.
        directions_b: The same for the target.

    Returns:
        0 to 1.
    """
    return float((directions_a.double().T @ directions_b.double()).square().sum() / directions_b.shape[1])


def power_law_exponent(spectrum: Tensor, trace: float | None = None, ranks: int = 128) -> float:
    """Fit lambda_j ~ j^-a by least squares of log lambda_j on log j (arXiv 2602.07026, appendix D.1).

    The paper first scales the spectrum to the target's trace. `trace` does that, and does not change the slope:
    a scale is a constant in the logarithm. It does not state its range of ranks; 128 is what it analyses elsewhere.

    Args:
        spectrum: `(dim,)`, largest first.
        trace: Trace to scale to; None leaves the spectrum alone.
        ranks: Largest number of leading eigenvalues in the fit.

    Returns:
        The exponent a; larger is steeper. nan below two eigenvalues.
    """
    used = min(ranks, leading_count(spectrum))
    if used < 2:
        return float("nan")
    values = spectrum.double()[:used]
    if trace is not None:
        values = values * (trace / spectrum.double().sum())
    x = torch.arange(1, used + 1, dtype=torch.float64, device=values.device).log()
    x, y = x - x.mean(), values.log()
    return float(-(x @ (y - y.mean())) / (x @ x))


def effective_rank(spectrum: Tensor) -> float:
    """Measure exp(-sum p log p) with p = lambda / sum lambda (Roy and Vetterli, EUSIPCO 2007).

    arXiv 2602.07026 prints effective ranks without their formula; `participation_ratio` is the other common one.

    Args:
        spectrum: `(dim,)`, none below zero.

    Returns:
        1 (one direction) to dim (isotropic).
    """
    p = spectrum.double() / spectrum.double().sum()
    return float(torch.special.entr(p).sum().exp())


def participation_ratio(spectrum: Tensor) -> float:
    """Measure (sum lambda)^2 / sum lambda^2; of the paired residual it is d_eff (arXiv 2605.07825, section 3).

    Args:
        spectrum: `(dim,)`, none below zero.

    Returns:
        1 to dim; the paper prints it divided by dim.
    """
    spectrum = spectrum.double()
    return float(spectrum.sum().square() / spectrum.square().sum())


def anisotropy(spectrum: Tensor) -> float:
    """Measure A_r = lambda_max / (sum lambda / dim) of the paired residual (arXiv 2605.07825, section 3).

    Args:
        spectrum: `(dim,)` of the residual's covariance, or of its uncentred second moment (appendix B.2).

    Returns:
        1 (isotropic) to dim (one direction).
    """
    spectrum = spectrum.double()
    return float(spectrum.max() * len(spectrum) / spectrum.sum())


def cumulative_energy(spectrum: Tensor) -> Tensor:
    """Give E(K), the share of the trace in the K leading directions, for every K (arXiv 2605.07825, section 3).

    Args:
        spectrum: `(dim,)`, largest first.

    Returns:
        `(dim,)` float64; entry K - 1 is E(K).
    """
    return spectrum.double().cumsum(0) / spectrum.double().sum()


def frame_coverage(residual_covariance: Tensor, frame: Tensor) -> float:
    """Measure eta_U = tr(P_U Sigma_r) / tr Sigma_r: what a frame holds of the paired residual (arXiv 2605.07825).

    Args:
        residual_covariance: `(dim, dim)` of r = (x - mu_x) - (y - mu_y).
        frame: `(dim, r)`, orthonormal columns, such as the top directions of Sigma_x + Sigma_y.

    Returns:
        0 to 1; a random frame has r / dim.
    """
    covariance, frame = residual_covariance.double(), frame.double()
    return float((frame * (covariance @ frame)).sum() / covariance.trace())
