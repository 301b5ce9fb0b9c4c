"""The wrapped Gaussian on the circle, coordinate by coordinate (arXiv 2605.07825, section 4.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["wrap", "wrapped_log_density", "wrapped_score"]

WINDINGS = 3  # +-3 turns are exact to rounding up to a standard deviation of about 2 rad


def wrap(angle: Tensor) -> Tensor:
    """Bring angles into [-pi, pi).

    Args:
        angle: Radians, any shape.

    Returns:
        Tensor of the same shape; the gradient is one.
    """
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def wrapped_log_density(delta: Tensor, variance: Tensor | float, windings: int = WINDINGS) -> Tensor:
    """Compute log q = log sum_n N(delta + 2 pi n; 0, variance), n = -windings..windings.

    In stage I the variance is 2 sigma_t^2, for the noise is sqrt(2) sigma_t eps.

    Args:
        delta: Angle from the mean in radians, any shape; wrapped here.
        variance: In rad^2; broadcasts with `delta`.
        windings: Turns on each side.

    Returns:
        Log density per radian, of the broadcast shape.
    """
    variance = torch.as_tensor(variance, dtype=delta.dtype, device=delta.device)
    logits = _unwound(delta, windings).square() / (-2 * variance[..., None])
    return torch.logsumexp(logits, dim=-1) - 0.5 * torch.log(2 * math.pi * variance)


def wrapped_score(delta: Tensor, variance: Tensor | float, windings: int = WINDINGS) -> Tensor:
    """Compute the derivative of `wrapped_log_density` in delta.

    It is - sum_n w_n (delta + 2 pi n) / variance with weights w_n proportional to each turn's density.

    Args:
        delta: Angle from the mean in radians, any shape; wrapped here.
        variance: In rad^2; broadcasts with `delta`.
        windings: Turns on each side.

    Returns:
        Score per radian, of the broadcast shape.
    """
    variance = torch.as_tensor(variance, dtype=delta.dtype, device=delta.device)
    turns = _unwound(delta, windings)
    weights = torch.softmax(turns.square() / (-2 * variance[..., None]), dim=-1)
    return -(weights * turns).sum(-1) / variance


def _unwound(delta: Tensor, windings: int) -> Tensor:
    """Give delta + 2 pi n for all turns n on a new last axis."""
    turns = torch.arange(-windings, windings + 1, dtype=delta.dtype, device=delta.device)
    return wrap(delta)[..., None] + 2 * math.pi * turns
