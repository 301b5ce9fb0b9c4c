"""Batches for pre-training the point encoder: real and generated clouds, each batch a function of the step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hf_modalbridge.demo.shapes import SHAPE_KINDS, generate_shape

__all__ = ["PointBatches", "augment_cloud"]


def augment_cloud(points: np.ndarray, rng: np.random.Generator, turn: float, num_points: int) -> np.ndarray:
    """Turn, stretch, flip and thin a cloud.

    Args:
        points: `(points, 3)`.
        rng: Source of randomness.
        turn: Largest turn about the vertical axis, in radians.
        num_points: Points to keep.

    Returns:
        `(num_points, 3)` float32 in the unit sphere, centred on the bounding box.
    """
    kept = points[rng.choice(len(points), num_points, replace=False)].astype(np.float64)
    angle = rng.uniform(-turn, turn)
    c, s = np.cos(angle), np.sin(angle)
    kept = kept @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    kept *= np.exp(rng.normal(0, 0.12, 3)) * (rng.choice([-1, 1]), 1, 1)
    kept -= (kept.min(0) + kept.max(0)) / 2
    return (kept / np.linalg.norm(kept, axis=1).max()).astype(np.float32)


class PointBatches:
    """Draw batches of clouds by step number.

    Args:
        clouds: `(clouds, points, 3)` of real objects.
        batch_size: Clouds of a batch.
        num_groups: Groups that the model cuts a cloud into, for the mask's noise.
        generated: Share of the batch that is generated shapes.
        turn: Largest turn about the vertical axis, in radians; objects have a front, so not all the way round.
        seed: Seed of everything.
    """

    def __init__(
        self,
        clouds: np.ndarray,
        batch_size: int,
        num_groups: int,
        generated: float = 0.5,
        turn: float = 0.5,
        seed: int = 0,
    ):
        self.clouds, self.batch_size, self.num_groups = clouds, batch_size, num_groups
        self.generated, self.turn, self.seed = generated, turn, seed

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Give the batch of a step.

        Args:
            step: Step from 0.

        Returns:
            `point_values` `(batch_size, points, 3)` with 512 to 1,024 points, one number a batch; `mask_noise`
            `(batch_size, num_groups)`; and `kinds` `(batch_size,)`, a generated shape's place in `SHAPE_KINDS`, -100
            for the others.
        """
        rng = np.random.default_rng([self.seed, step])
        num_points = int(rng.integers(512, 1025))
        rows, kinds = [], []
        for place in range(self.batch_size):
            if rng.random() < self.generated:
                points, kind = generate_shape([self.seed, step, place])
                kinds.append(SHAPE_KINDS.index(kind))
            else:
                points = self.clouds[rng.integers(len(self.clouds))]
                kinds.append(-100)
            rows.append(augment_cloud(points, rng, self.turn, num_points))
        noise = rng.random((self.batch_size, self.num_groups), dtype=np.float32)
        return {
            "point_values": torch.from_numpy(np.stack(rows)),
            "mask_noise": torch.from_numpy(noise),
            "kinds": torch.tensor(kinds),
        }
