"""The modality gap in angles: densities of pairwise cosines, uniformity, and a linear classifier between sets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_modalbridge.functional.geometry import normalize_rows

__all__ = [
    "angular_divergence",
    "cosine_density",
    "cosine_histogram",
    "cross_uniformity",
    "jensen_shannon",
    "linear_separability",
    "pair_positions",
    "scott_bandwidth",
    "smoothed_histogram",
    "uniformity",
]

_GRID = 512


def pair_positions(rows: int, pairs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw pairs of different rows.

    Args:
        rows: Number of rows, at least two.
        pairs: Pairs to draw, with replacement; all pairs in order if that is no more.
        seed: Of the draw.

    Returns:
        Positions `(pairs,)` and `(pairs,)`, int64.

    Raises:
        ValueError: If there are fewer than two rows.
    """
    if rows < 2:
        raise ValueError(f"pairs of different rows need at least 2 rows, got {rows}.")
    if rows * (rows - 1) // 2 <= pairs:
        first, second = torch.triu_indices(rows, rows, 1)
        return first, second
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(rows, (pairs,), generator=generator)
    return first, (first + torch.randint(1, rows, (pairs,), generator=generator)) % rows


def cosine_histogram(cosines: Tensor, weights: Tensor | None = None, bins: int = _GRID) -> Tensor:
    """Count cosines in equal bins of [-1, 1].

    Args:
        cosines: `(pairs,)`.
        weights: `(pairs,)`; None counts each once.
        bins: Number of bins.

    Returns:
        `(bins,)` float64 that sums to one.
    """
    place = ((cosines.double() + 1) * (bins / 2)).long().clamp(0, bins - 1)
    counts = torch.bincount(place, None if weights is None else weights.double(), minlength=bins).double()
    return counts / counts.sum()


def smoothed_histogram(histogram: Tensor, bandwidth: float) -> Tensor:
    """Turn histograms over [-1, 1] into Gaussian kernel densities at the centres of their bins.

    Args:
        histogram: `(..., bins)`.
        bandwidth: Of the kernel; at least half a bin is used.

    Returns:
        `(..., bins)` float64 probabilities that sum to one.
    """
    bins = histogram.shape[-1]
    centres = (torch.arange(bins, dtype=torch.float64) + 0.5) * (2 / bins) - 1
    kernel = torch.exp(-0.5 * ((centres[:, None] - centres) / max(bandwidth, 1.0 / bins)).square())  # (points, bins)
    density = histogram.double() @ kernel
    return density / density.sum(-1, keepdim=True)


def scott_bandwidth(cosines: Tensor) -> float:
    """Give Scott's bandwidth in one dimension, sigma n^(-1/5).

    Args:
        cosines: `(pairs,)`, at least two.

    Returns:
        The bandwidth.
    """
    return float(cosines.double().std()) * len(cosines) ** -0.2


def cosine_density(cosines: Tensor, bandwidth: float | None = None) -> Tensor:
    """Estimate the density of cosines with a Gaussian kernel, on 512 points of [-1, 1].

    Args:
        cosines: `(pairs,)`.
        bandwidth: Of the kernel; None for Scott's rule.

    Returns:
        `(512,)` float64 probabilities at the centres of the bins, which sum to one.
    """
    width = scott_bandwidth(cosines) if bandwidth is None else bandwidth
    return smoothed_histogram(cosine_histogram(cosines.cpu()), width)


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Measure the Jensen-Shannon divergence of densities in bits: H((p + q) / 2) - (H(p) + H(q)) / 2.

    Args:
        p: `(..., points)`, sums to one.
        q: The same.

    Returns:
        `(...)` float64, 0 (equal) to 1 (no overlap).
    """
    p, q = p.double(), q.double()
    middle, first, second = (torch.special.entr(x).sum(-1) for x in ((p + q) / 2, p, q))
    return ((middle - (first + second) / 2) / math.log(2)).clamp_min(0)


def angular_divergence(a: Tensor, b: Tensor, pairs: int = 100_000, seed: int = 0) -> float:
    """Compare the shapes of two sets by their angles: Jensen-Shannon of the densities of pairwise cosines.

    arXiv 2602.07026 (section 5) prints this with a kernel density and names neither bandwidth nor base; here
    Scott's rule and bits.

    Args:
        a: `(n, dim)`; cosines are taken inside each set.
        b: `(m, dim)`.
        pairs: Random pairs of rows in each set.
        seed: Of the pairs.

    Returns:
        0 to 1.
    """
    densities = []
    for rows in (a, b):
        unit = normalize_rows(rows.double())
        first, second = pair_positions(len(unit), pairs, seed)
        densities.append(cosine_density((unit[first] * unit[second]).sum(1)))
    return float(jensen_shannon(densities[0], densities[1]))


def uniformity(x: Tensor, t: float = 2.0, per: str = "pair", batch_size: int = 1024) -> float:
    """Measure how evenly rows spread over the sphere, log mean exp(-t ||x_j - x_k||^2).

    Args:
        x: `(n, dim)`.
        t: 2 in both papers.
        per: "pair": mean over pairs of different rows (Wang and Isola, arXiv 2005.10242, equation 3). "row": sum
            over all pairs, each row with itself among them, divided by n (L_I and L_T of arXiv 2405.18570).
        batch_size: Rows compared at once.

    Returns:
        At most 0 per pair, lower is more even.

    Raises:
        ValueError: If there are too few rows, or `per` is unknown.
    """
    return _uniformity(x, None, t, per, batch_size)


def cross_uniformity(x: Tensor, y: Tensor, t: float = 2.0, per: str = "pair", batch_size: int = 1024) -> float:
    """Measure how far rows stay from other items' rows on the other side (L_XU of arXiv 2405.18570).

    Args:
        x: `(n, dim)`.
        y: `(n, dim)`; the row at the same position belongs to the same item and is left out.
        t: 2 in the paper.
        per: "row": the paper's sum divided by n. "pair": divided by n (n - 1), which does not grow with n.
        batch_size: Rows compared at once.

    Returns:
        Lower is farther apart.

    Raises:
        ValueError: If shapes differ, there are too few rows, or `per` is unknown.
    """
    if x.shape != y.shape:
        raise ValueError(f"cross uniformity takes two (n, dim) of one shape, got {tuple(x.shape)}, {tuple(y.shape)}.")
    return _uniformity(x, y, t, per, batch_size)


def _uniformity(x: Tensor, y: Tensor | None, t: float, per: str, batch_size: int) -> float:
    if per not in ("pair", "row") or len(x) < 2:
        raise ValueError(f"uniformity needs at least 2 rows and per='pair' or 'row'; got {len(x)} and {per!r}.")
    x = normalize_rows(x.double())
    other = x if y is None else normalize_rows(y.double())
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for start in range(0, len(x), batch_size):
        batch = x[start : start + batch_size]
        values = torch.exp(2 * t * ((batch @ other.T).clamp_max(1) - 1))  # ||a - b||^2 = 2 - 2 cos
        own = torch.arange(len(batch), device=x.device)
        if y is None and per == "row":
            values[own, own + start] = 1.0
        else:
            values[own, own + start] = 0.0
        total += values.sum()
    return float((total / (len(x) if per == "row" else len(x) * (len(x) - 1))).log())


def linear_separability(a: Tensor, b: Tensor, folds: int = 5, ridge: float = 1e-3, seed: int = 0) -> Tensor:
    """Tell for each row whether a linear classifier that was fitted without it finds its side.

    Ridge regression of the labels -1 and 1 with an unpenalised intercept, which weighs both sides alike, in
    closed form; the sphere's own logistic classifier differs little and needs iterations. Measured as in
    arXiv 2405.18570, which prints accuracies of 1.00 across the gap.

    Args:
        a: `(n, dim)`.
        b: `(m, dim)`. If n = m, rows at one position are in one fold, so that pairs are not torn apart.
        folds: Parts of the cross-validation, at most the rows of the smaller side.
        ridge: Penalty in units of the mean variance of a coordinate.
        seed: Of the folds.

    Returns:
        `(n + m,)` float64, 1 where the row is on the found side, each side divided by its share of the rows: the
        mean is the balanced accuracy, 0.5 for sets that cannot be told apart.

    Raises:
        ValueError: If a side has fewer than two rows or widths differ.
    """
    if min(len(a), len(b)) < 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"a classifier needs two (n, dim) of one width with 2 rows or more; got {tuple(a.shape)}, {tuple(b.shape)}."
        )
    folds = max(2, min(folds, len(a), len(b)))
    generator = torch.Generator().manual_seed(seed)
    fold_a = torch.randperm(len(a), generator=generator) % folds
    fold_b = fold_a if len(a) == len(b) else torch.randperm(len(b), generator=generator) % folds
    a, b = normalize_rows(a.double()).cpu(), normalize_rows(b.double()).cpu()
    right_a, right_b = torch.zeros(len(a), dtype=torch.float64), torch.zeros(len(b), dtype=torch.float64)
    for fold in range(folds):
        train_a, train_b = a[fold_a != fold], b[fold_b != fold]
        mean_a, mean_b = train_a.mean(0), train_b.mean(0)
        spread = ((train_a - mean_a).T @ (train_a - mean_a)) / len(train_a)
        spread += ((train_b - mean_b).T @ (train_b - mean_b)) / len(train_b)
        spread.diagonal().add_(ridge * float(spread.trace()) / len(spread) + 1e-12)
        normal = torch.linalg.solve(spread, mean_b - mean_a)
        edge = normal @ (mean_a + mean_b) / 2
        right_a[fold_a == fold] = _credit(edge - a[fold_a == fold] @ normal)
        right_b[fold_b == fold] = _credit(b[fold_b == fold] @ normal - edge)
    share = torch.tensor([len(a), len(b)], dtype=torch.float64) * 2 / (len(a) + len(b))
    return torch.cat([right_a / share[0], right_b / share[1]])


def _credit(margin: Tensor) -> Tensor:
    """Give 1 on the right side, 0 on the wrong one, a half in between (sets with one mean)."""
    return (margin.sign() + 1) / 2
