"""Small fits of AnisoAlign, and data whose block phases are tied together, for the tests of this folder."""

from __future__ import annotations

import numpy as np
import torch

SMALL = {
    "rank": 8,
    "score_width": 32,
    "refine_width": 24,
    "score_steps": 40,
    "refine_steps": 30,
    "score_batch": 128,
    "refine_batch": 128,
    "eval_every": 10,
    "quantile_knots": 41,
}


def tied_phases(rows: int = 3000, seed: int = 0) -> np.ndarray:
    """Unit rows (rows, 12) of four blocks, each phase uniform on the circle: theta_1 ~ 2 theta_0, theta_3 ~ 2 theta_2.

    Block k lies in coordinates 2k and 2k + 1, with falling radii and no correlation, so that the frame finds it.
    """
    rng = np.random.default_rng(seed)
    free = rng.uniform(-np.pi, np.pi, size=(rows, 2))
    theta = np.stack([free[:, 0], 2 * free[:, 0], free[:, 1], 2 * free[:, 1]], 1) + 0.1 * rng.normal(size=(rows, 4))
    rho = 0.8 ** np.arange(4) * (1 + 0.1 * rng.normal(size=(rows, 4)))
    x = np.empty((rows, 12))
    x[:, 0:8:2], x[:, 1:8:2] = rho * np.cos(theta), rho * np.sin(theta)
    x[:, 8:] = 0.1 * rng.normal(size=(rows, 4))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def make_adversarial(correction, scale: float, seed: int = 0) -> None:
    """Replace the refinement network's weights by large random numbers, last layer included."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in correction.refinement.buffers():
        tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))
