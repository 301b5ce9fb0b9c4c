"""Means, traces and covariances of unit rows, in one pass each; parts merge exactly (`Moments.merge`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hf_modalbridge.corrections.streams import Embeddings, RowStream
from hf_modalbridge.functional.covariance import CovarianceMoments
from hf_modalbridge.functional.moments import Moments
from hf_modalbridge.functional.realign import normalized_affine_sum, realign_scale, unit_rows_sum

__all__ = ["affine_moments", "centred_moments", "covariance_of", "drift_moments", "unit_covariance", "unit_moments"]


def unit_moments(data: RowStream | Embeddings | Sequence[Embeddings]) -> Moments:
    """Compute mean and trace of the unit rows, with trace = 1 - ||mean||^2 in place of a second pass.

    Args:
        data: Array or tensor `(n, dim)`, an `EmbeddingStore`, or a list of such parts.

    Returns:
        Their moments.
    """
    return affine_moments(data, 1.0, None, "mean")


def drift_moments(
    source: RowStream | Embeddings | Sequence[Embeddings], source_moments: Moments, target_moments: Moments
) -> Moments:
    """Compute the moments of e' = N(mu_x + s (y - mu_y)) over a part (arXiv 2602.07026, step 3).

    Args:
        source: The part.
        source_moments: Of the whole source.
        target_moments: Of the whole target.

    Returns:
        Moments whose mean is mu'.
    """
    scale = realign_scale(source_moments.trace, target_moments.trace)
    return affine_moments(source, scale, target_moments.mean - scale * source_moments.mean, "drift")


def centred_moments(data: RowStream | Embeddings | Sequence[Embeddings], moments: Moments) -> Moments:
    """Compute the moments of N(x - mu) over a part: what C3 and RoleMeans make of a target.

    Args:
        data: The part.
        moments: Of the unit rows of the whole side.

    Returns:
        Their moments.
    """
    return affine_moments(data, 1.0, -moments.mean, "centred mean")


def unit_covariance(data: RowStream | Embeddings | Sequence[Embeddings]) -> CovarianceMoments:
    """Compute mean and covariance of the unit rows in one pass; memory is dim x dim for each thread.

    Args:
        data: Array or tensor `(n, dim)`, an `EmbeddingStore`, or a list of such parts.

    Returns:
        Their moments.
    """
    stream = data if isinstance(data, RowStream) else RowStream(data)
    # a zero row becomes NaN here, which is how the stream notices it
    return covariance_of(stream, lambda rows: rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True))


def covariance_of(stream: RowStream, rows_of: Callable[[Tensor], Tensor]) -> CovarianceMoments:
    """Compute mean and covariance of a function of the rows in one pass.

    Args:
        stream: The rows.
        rows_of: From float64 rows `(n, dim)` to rows of the same shape.

    Returns:
        Their moments.
    """

    def sums(rows: Tensor) -> Tensor:
        rows = rows_of(rows)
        return torch.cat([rows.T @ rows, rows.sum(0, keepdim=True)])  # (dim + 1, dim)

    total = stream.sum(sums, "covariance", (stream.dim + 1, stream.dim))
    mean = total[-1] / stream.rows
    # rows of length one keep the difference of squares harmless
    return CovarianceMoments(stream.rows, mean, total[:-1] - stream.rows * torch.outer(mean, mean))


def affine_moments(
    data: RowStream | Embeddings | Sequence[Embeddings], scale: float, shift: Tensor | None, doing: str
) -> Moments:
    """Compute the moments of N(scale * N(row) + shift) in one pass.

    Args:
        data: The rows.
        scale: Scalar.
        shift: `(dim,)` float64, or None for the unit rows themselves.
        doing: Label of the progress bar.

    Returns:
        Their moments.
    """
    stream = data if isinstance(data, RowStream) else RowStream(data)
    if shift is None:
        return Moments.of_unit_sum(stream.sum(unit_rows_sum, doing), stream.rows)
    centre = shift.to("cpu", torch.float64)
    total = stream.sum(lambda rows: normalized_affine_sum(rows, scale, centre), doing)
    return Moments.of_unit_sum(total, stream.rows)
