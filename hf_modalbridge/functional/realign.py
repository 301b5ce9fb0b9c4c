"""ReAlign (arXiv 2602.07026, section 4) as pure functions of means and traces.

Symbols: y source rows (text), x target rows (the modality), all of unit length; mu means, T traces of the
covariances, N(v) = v / ||v||.

    s    = sqrt(T_x / (T_y + eps))                     step 2, one scalar
    e'   = N(s (y - mu_y) + mu_x) = N(s y + c),        steps 1 and 2, with c = mu_x - s mu_y
    mu'  = mean of e' over the source
    y^   = N(e' - mu' + mu_x)                          step 3

Each step is a normalised affine map, so row norms follow from a few dot products and nothing of the size of
the data is ever made: ||s y + c||^2 = s^2 + 2 s y.c + ||c||^2 for unit y.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_modalbridge.functional.geometry import normalize_rows

__all__ = [
    "normalized_affine",
    "normalized_affine_sum",
    "realign",
    "realign_scale",
    "unit_affine",
    "unit_rows_sum",
]

SCALE_EPS = 1e-10


def realign_scale(source_trace: float, target_trace: float, eps: float = SCALE_EPS) -> float:
    """Compute the scale of step 2, s = sqrt(T_x / (T_y + eps)).

    Args:
        source_trace: T_y.
        target_trace: T_x.
        eps: Guards a source without spread.

    Returns:
        The scale.
    """
    return (target_trace / (source_trace + eps)) ** 0.5


def unit_affine(rows: Tensor, scale: Tensor | float, shift: Tensor, out: Tensor | None = None) -> Tensor:
    """Compute scale * N(row) + shift.

    Args:
        rows: `(n, dim)`.
        scale: Scalar.
        shift: `(dim,)` in the dtype of `rows`.
        out: Memory for the result, which may be `rows` itself; not where gradients are wanted.

    Returns:
        `(n, dim)`, not normalised.
    """
    lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(1e-10)  # (n, 1)
    return torch.addcmul(shift, rows, scale / lengths, out=out)  # one pass over the rows


def normalized_affine(rows: Tensor, scale: Tensor | float, shift: Tensor, out: Tensor | None = None) -> Tensor:
    """Compute N(scale * N(row) + shift), the form of every closed-form correction.

    Args:
        rows: `(n, dim)`.
        scale: Scalar.
        shift: `(dim,)` in the dtype of `rows`.
        out: Memory for the result, which may be `rows` itself; not where gradients are wanted.

    Returns:
        Unit rows `(n, dim)` in the dtype of `rows`.
    """
    return normalize_rows(unit_affine(rows, scale, shift, out), out=out)


def realign(
    source: Tensor,
    source_mean: Tensor,
    target_mean: Tensor,
    scale: Tensor | float,
    drift_mean: Tensor,
    out: Tensor | None = None,
) -> Tensor:
    """Apply ReAlign with given statistics (arXiv 2602.07026, section 4, steps 1 to 3).

    Args:
        source: `(n, dim)`; rows are normalised first.
        source_mean: mu_y `(dim,)`.
        target_mean: mu_x `(dim,)`.
        scale: s.
        drift_mean: mu' `(dim,)`, the mean of e' over the rows of the fit.
        out: Memory for the result, which may be `source` itself; not where gradients are wanted.

    Returns:
        y^ `(n, dim)` in the dtype of `source`: unit rows on the target's side.
    """
    anchored = unit_affine(source, scale, (target_mean - scale * source_mean).to(source.dtype), out)  # e2
    return normalized_affine(anchored, 1.0, (target_mean - drift_mean).to(source.dtype), out)  # N(e' - mu' + mu_x)


def unit_rows_sum(rows: Tensor) -> Tensor:
    """Compute the sum of N(row) without making the unit rows.

    Args:
        rows: `(n, dim)` float64, finite and not zero.

    Returns:
        `(dim,)`.
    """
    return torch.linalg.vector_norm(rows, dim=1).reciprocal() @ rows


def normalized_affine_sum(rows: Tensor, scale: float, shift: Tensor) -> Tensor:
    """Compute the sum over the rows of N(scale * N(row) + shift) without making those rows.

    Args:
        rows: `(n, dim)` float64, finite and not zero.
        scale: s.
        shift: c `(dim,)`.

    Returns:
        `(dim,)`: sum_i s / (||y_i|| r_i) y_i + (sum_i 1 / r_i) c with r_i^2 = s^2 + 2 s y_i.c / ||y_i|| +
        ||c||^2.
    """
    lengths = torch.linalg.vector_norm(rows, dim=1)  # (n,)
    squared = scale * scale + 2 * scale * (rows @ shift) / lengths + shift @ shift
    inverse = squared.clamp_min(1e-20).rsqrt()
    return (scale * inverse / lengths) @ rows + inverse.sum() * shift
