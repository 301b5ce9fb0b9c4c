"""How far AnisoAlign's refinement can move an embedding (arXiv 2605.07825, appendix A.7)."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["block_move_bound", "cosine_change_bound", "paper_cosine_change_bound"]


def block_move_bound(a_theta: float, a_rho: float) -> float:
    """Compute kappa, the largest relative change of a block turned by |angle| <= a_theta and scaled by e^(+-a_rho).

    kappa^2 = (e^a_rho - 1)^2 + 4 e^a_rho sin^2(a_theta / 2), about a_theta^2 + a_rho^2. As it holds for each
    block, it holds for the whole part in the frame.

    Args:
        a_theta: Radians, 0..pi.
        a_rho: Of log radius.

    Returns:
        kappa.
    """
    return math.sqrt(math.expm1(a_rho) ** 2 + 4 * math.exp(a_rho) * math.sin(a_theta / 2) ** 2)


def cosine_change_bound(epsilon: Tensor) -> Tensor:
    """Bound the change of a cosine of two vectors that each moved by at most `epsilon` times their length.

    A move of relative size epsilon turns a vector by at most arcsin(epsilon), so the angle between two changes
    by at most 2 arcsin(epsilon), and the cosine by at most 2 sin(arcsin(epsilon)) = 2 epsilon. This is tighter
    than the paper's 4 epsilon / (1 - epsilon).

    Args:
        epsilon: Relative moves, any shape.

    Returns:
        min(2 epsilon, 2).
    """
    return (2 * epsilon).clamp_max(2.0)


def paper_cosine_change_bound(epsilon: Tensor) -> Tensor:
    """Compute the paper's bound 4 epsilon / (1 - epsilon) for epsilon < 1 (appendix A.7).

    Args:
        epsilon: Relative moves, any shape.

    Returns:
        The bound, at most 2, which is what any cosine can change by.
    """
    return (4 * epsilon / (1 - epsilon).clamp_min(1e-12)).clamp(0.0, 2.0)
