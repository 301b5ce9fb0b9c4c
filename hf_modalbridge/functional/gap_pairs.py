"""The modality gap on rows that belong together: pairs of source and target, and a source before and after."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_modalbridge.functional.geometry import normalize_rows

__all__ = [
    "alignment",
    "displacement",
    "displacement_ceiling",
    "paired_distance",
    "recall",
    "residual_rows",
    "retrieval_ranks",
    "row_cosines",
    "weighted_correlation",
]


def row_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Give the cosine of each row with the row at its position on the other side.

    Of source and target pairs this is the pair cosine; of a source and its corrected self the row's part of Phi.

    Args:
        a: `(n, dim)`.
        b: `(n, dim)`.

    Returns:
        `(n,)` float64.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_paired(a, b)
    return (normalize_rows(a.double()) * normalize_rows(b.double())).sum(1)


def residual_rows(source: Tensor, target: Tensor) -> Tensor:
    """Give r = (x - mu_x) - (y - mu_y) of pairs of unit rows (arXiv 2605.07825, section 3).

    Args:
        source: y, `(n, dim)`.
        target: x, `(n, dim)`; row i belongs to row i of the source.

    Returns:
        `(n, dim)` float64, with mean zero.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_paired(source, target)
    delta = normalize_rows(target.double()) - normalize_rows(source.double())
    return delta - delta.mean(0)


def paired_distance(source: Tensor, target: Tensor) -> float:
    """Measure D_center = E||r||^2 = tr Sigma_r, a mean squared distance (arXiv 2605.07825, section 3).

    E||x - y||^2 = ||mu_x - mu_y||^2 + D_center.

    Args:
        source: `(n, dim)`.
        target: `(n, dim)`, paired by row.

    Returns:
        0 to 4; 2 (1 - cos) of centred pairs, about tr Sigma_x + tr Sigma_y for rows that do not belong together.
    """
    return float(residual_rows(source, target).square().sum(1).mean())


def alignment(source: Tensor, target: Tensor, alpha: float = 2.0) -> float:
    """Measure the mean of ||x - y||^alpha over pairs (Wang and Isola, arXiv 2005.10242, equation 2).

    With alpha = 2 it is L_A of arXiv 2405.18570.

    Args:
        source: `(n, dim)`.
        target: `(n, dim)`, paired by row.
        alpha: Power.

    Returns:
        0 (each pair in one point) to 2^alpha.
    """
    _check_paired(source, target)
    return float((normalize_rows(source.double()) - normalize_rows(target.double())).norm(dim=1).pow(alpha).mean())


def displacement(source: Tensor, corrected: Tensor) -> float:
    """Measure Phi = mean y_i^T z_i, how little the source rows moved (arXiv 2605.07825, appendix B.2).

    Args:
        source: y, `(n, dim)`.
        corrected: z, `(n, dim)`, row by row.

    Returns:
        -1 to `displacement_ceiling` of the two means.
    """
    return float(row_cosines(source, corrected).mean())


def displacement_ceiling(source_mean: Tensor, corrected_mean: Tensor) -> float:
    """Bound Phi from above: Phi = 1 - E||y - z||^2 / 2 <= 1 - ||mu_y - mu_z||^2 / 2, by Jensen's inequality.

    A correction that closes a centroid gap G_mu fully cannot have a Phi above 1 - G_mu^2 / 2.

    Args:
        source_mean: Mean `(dim,)` of the unit source rows.
        corrected_mean: Mean `(dim,)` of the unit corrected rows, or of the target for the value at a closed gap.

    Returns:
        The largest Phi that these means allow.
    """
    return 1.0 - float((source_mean.double() - corrected_mean.double()).square().sum()) / 2


def weighted_correlation(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Compute Pearson correlations, under one or many sets of weights.

    Psi is this of the cosines of random pairs of rows before and after (arXiv 2605.07825, appendix B.2).

    Args:
        a: `(pairs,)`.
        b: `(pairs,)`.
        weights: `(..., pairs)`, none below zero; None for equal weights.

    Returns:
        `(...)` float64; nan where a side does not vary.
    """
    a, b = a.double(), b.double()
    a, b = a - a.mean(), b - b.mean()
    w = torch.ones_like(a) if weights is None else weights.double()
    total = w.sum(-1)
    mean_a, mean_b = (w @ a) / total, (w @ b) / total
    cov = (w @ (a * b)) / total - mean_a * mean_b
    var_a, var_b = (w @ a.square()) / total - mean_a.square(), (w @ b.square()) / total - mean_b.square()
    return cov / (var_a * var_b).sqrt()


def retrieval_ranks(queries: Tensor, keys: Tensor, distractors: Tensor | None = None, batch_size: int = 1024) -> Tensor:
    """Rank each query's own key, by cosine.

    The pool is all keys (cross-modal), or, with the queries themselves as distractors, keys and the other
    queries (mixed; the setting of arXiv 2507.19054): across a modality gap any query is nearer than the key.

    Args:
        queries: `(n, dim)`; query i belongs to key i.
        keys: `(m, dim)` with m >= n.
        distractors: `(n, dim)` in the queries' order, of which row i is no distractor for query i. None: none.
        batch_size: Queries compared at once.

    Returns:
        `(n,)` int64, 0 for the nearest. A row that ties with the own key counts as nearer.

    Raises:
        ValueError: If shapes do not fit.
    """
    if queries.shape[-1] != keys.shape[-1] or len(keys) < len(queries) or not len(queries):
        raise ValueError(
            "ranks need queries (n, dim) and keys (m, dim) with m >= n >= 1, key i belonging to query i; got "
            f"{tuple(queries.shape)} and {tuple(keys.shape)}. Pass paired rows of one width."
        )
    if distractors is not None and distractors.shape != queries.shape:
        raise ValueError(
            f"distractors are rows like the queries, {tuple(queries.shape)}; got {tuple(distractors.shape)}."
        )
    queries, keys = normalize_rows(queries.float()), normalize_rows(keys.float())
    others = None if distractors is None else normalize_rows(distractors.float())
    ranks = []
    for start in range(0, len(queries), batch_size):
        batch = queries[start : start + batch_size]
        own = torch.arange(start, start + len(batch), device=batch.device)
        scores = batch @ keys.T  # (batch, m)
        truth = scores.gather(1, own[:, None])
        rank = (scores >= truth).sum(1) - 1
        if others is not None:
            scores = batch @ others.T
            scores.scatter_(1, own[:, None], float("-inf"))
            rank = rank + (scores >= truth).sum(1)
        ranks.append(rank)
    return torch.cat(ranks)


def recall(ranks: Tensor, k: int) -> float:
    """Give R@k, the share of queries whose own key is among the k nearest.

    Args:
        ranks: From `retrieval_ranks`.
        k: Cut-off.

    Returns:
        0 to 1.
    """
    return float((ranks < k).double().mean())


def _check_paired(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 2 or not len(a):
        raise ValueError(
            f"rows that belong together come as two (n, dim) of one shape, n >= 1; got {tuple(a.shape)} and "
            f"{tuple(b.shape)}. Match them first."
        )
