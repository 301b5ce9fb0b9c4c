"""Block-polar coordinates and the radial quantile map of AnisoAlign (arXiv 2605.07825, sections 4.2 and 4.4).

Coordinates c = Q_U^T z in R^(2m) hold the first coordinates a of all m blocks, then the second ones b, so that
block k is (c_k, c_(m+k)).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "POLAR_EPS",
    "block_cartesian",
    "block_directions",
    "block_polar",
    "quantile_knots",
    "radial_transfer",
    "turned",
]

# The paper's eps has no value. It only keeps log rho finite; a larger one would shift the radii themselves.
POLAR_EPS = 1e-12


def block_directions(c: Tensor, eps: float = POLAR_EPS) -> tuple[Tensor, Tensor, Tensor]:
    """Compute radius, cosine and sine of the phase of each block, without an arc tangent.

    Args:
        c: `(..., 2 m)`.
        eps: Inside the square root.

    Returns:
        rho = sqrt(a^2 + b^2 + eps), cos theta = a / rho and sin theta = b / rho, each `(..., m)`.
    """
    a, b = c.chunk(2, dim=-1)
    rho = (a * a + b * b + eps).sqrt()
    return rho, a / rho, b / rho


def block_polar(c: Tensor, eps: float = POLAR_EPS) -> tuple[Tensor, Tensor]:
    """Compute rho_k = sqrt(a_k^2 + b_k^2 + eps) and theta_k = atan2(b_k, a_k) (section 4.2).

    Args:
        c: `(..., 2 m)`.
        eps: Inside the square root.

    Returns:
        rho and theta in (-pi, pi], each `(..., m)`.
    """
    a, b = c.chunk(2, dim=-1)
    return (a * a + b * b + eps).sqrt(), torch.atan2(b, a)


def block_cartesian(rho: Tensor, theta: Tensor) -> Tensor:
    """Invert `block_polar`: c_k = (rho_k cos theta_k, rho_k sin theta_k).

    Args:
        rho: `(..., m)`.
        theta: `(..., m)`.

    Returns:
        `(..., 2 m)`.
    """
    return torch.cat([rho * theta.cos(), rho * theta.sin()], dim=-1)


def turned(rho: Tensor, cosine: Tensor, sine: Tensor, turn: Tensor) -> Tensor:
    """Compute c(rho, theta + turn) from cos theta and sin theta, by the sums of angles.

    Args:
        rho: Radii `(..., m)`.
        cosine: cos theta `(..., m)`.
        sine: sin theta `(..., m)`.
        turn: rad, `(..., m)`.

    Returns:
        `(..., 2 m)`.
    """
    across, along = turn.cos(), turn.sin()
    return torch.cat([rho * (cosine * across - sine * along), rho * (sine * across + cosine * along)], dim=-1)


def quantile_knots(values: Tensor, count: int) -> Tensor:
    """Compute evenly spaced quantiles of each column, the ends being minimum and maximum.

    Args:
        values: `(n, m)`.
        count: Number of knots K, at least 2.

    Returns:
        `(m, count)` float64, not falling along the last axis.

    Raises:
        ValueError: If there are no rows or fewer than two knots.
    """
    if not len(values) or count < 2:
        raise ValueError(f"quantiles need at least 1 row and 2 knots, got {len(values)} rows and {count} knots.")
    ordered = values.double().sort(0).values  # (n, m)
    position = torch.linspace(0, len(values) - 1, count, dtype=torch.float64)
    below = position.floor().long().clamp_max(len(values) - 1)
    above = (below + 1).clamp_max(len(values) - 1)
    return torch.lerp(ordered[below], ordered[above], (position - below)[:, None]).T.contiguous()


def radial_transfer(rho: Tensor, source_knots: Tensor, target_knots: Tensor) -> Tensor:
    """Map radii by quantiles: rho0_k = (F_k^x)^-1(F_k^y(rho_k)) (section 4.4).

    Both distribution functions are piecewise linear between the knots; radii beyond the outer knots are
    clamped to them.

    Args:
        rho: `(n, m)`.
        source_knots: Quantiles of the source's radii `(m, K)` from `quantile_knots`.
        target_knots: The target's `(m, K)`, at the same levels.

    Returns:
        `(n, m)`; differentiable in `rho`.
    """
    knots, values = source_knots.to(rho.dtype), target_knots.to(rho.dtype)
    columns = rho.T.contiguous()  # (m, n)
    upper = torch.searchsorted(knots, columns.detach(), right=True).clamp(1, knots.shape[1] - 1)
    low, high = knots.gather(1, upper - 1), knots.gather(1, upper)
    # knots may tie, where many rows have the same radius: the step then has no slope
    share = ((columns - low) / (high - low).clamp_min(torch.finfo(rho.dtype).tiny)).clamp(0, 1)
    return torch.lerp(values.gather(1, upper - 1), values.gather(1, upper), share).T
