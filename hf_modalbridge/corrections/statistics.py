"""Means and traces of unit rows, in one pass each; parts merge exactly (`Moments.merge`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_modalbridge.corrections.streams import Embeddings, RowStream
from hf_modalbridge.functional.moments import Moments
from hf_modalbridge.functional.realign import normalized_affine_sum, realign_scale, unit_rows_sum

__all__ = ["affine_moments", "drift_moments", "unit_moments"]


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
