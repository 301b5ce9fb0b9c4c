"""Diffusion of embeddings: noise schedule, deterministic reverse steps and the topology loss.

Rows are in coordinates of unit variance. Time runs from 0 (clean) to 1 (noise): z_t = a_t z_0 + b_t noise with
a_t = cos(pi t / 2), b_t = sin(pi t / 2), the continuous cosine schedule, so that a_t^2 + b_t^2 = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from hf_modalbridge.functional.geometry import normalize_rows

__all__ = ["add_noise", "reverse", "topology_loss"]


def add_noise(clean: Tensor, time: Tensor, noise: Tensor) -> Tensor:
    """Go forward to a time: z_t = cos(pi t / 2) z_0 + sin(pi t / 2) noise.

    Args:
        clean: z_0 `(n, dim)`.
        time: t `(n, 1)` in [0, 1].
        noise: `(n, dim)`.

    Returns:
        z_t `(n, dim)`.
    """
    angle = time * (math.pi / 2)
    return angle.cos() * clean + angle.sin() * noise


def reverse(start: Tensor, time: float, steps: int, predict: Callable[[Tensor, float], Tensor]) -> Tensor:
    """Go back to time 0 in equal steps of DDIM without noise (arXiv 2010.02502, equation 12 with sigma = 0).

    Args:
        start: z at `time`, `(n, dim)`.
        time: Where to start, in (0, 1).
        steps: Number of steps.
        predict: From z_t and t to the clean rows x_0 `(n, dim)`.

    Returns:
        The clean rows `(n, dim)`: those predicted in the last step.
    """
    z, now = start, time
    clean = start
    for step in range(1, steps + 1):
        clean = predict(z, now)
        after = time * (1 - step / steps)
        if step < steps:
            noise = (z - math.cos(math.pi / 2 * now) * clean) / math.sin(math.pi / 2 * now)
            z = math.cos(math.pi / 2 * after) * clean + math.sin(math.pi / 2 * after) * noise
        now = after
    return clean


def topology_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Compare the cosines inside a batch: mean over i != j of (cos(p_i, p_j) - cos(x_i, x_j))^2.

    Args:
        predicted: `(n, dim)`, n >= 2.
        target: `(n, dim)`.

    Returns:
        Scalar; the geometry of the predicted rows against that of the target's.
    """
    left, right = normalize_rows(predicted), normalize_rows(target)
    difference = (left @ left.T - right @ right.T).square()
    count = len(predicted)
    return (difference.sum() - difference.diagonal().sum()) / (count * (count - 1))
