"""Which rows make which batch when the data are several sets, one of which is drawn at each step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .batches import BatchPlan

__all__ = ["EdgePlan"]


class EdgePlan:
    """Draw one of several sets at each step, and take its next rows; a pure function of the seed and the step.

    The sets' rows are numbered one set after the other. All processes draw the same set.

    Args:
        rows: Rows of all sets together.
        sizes: Rows of each set.
        weights: How often each is drawn, relative to the others.
        total_steps: Optimizer steps of the run.
        seed: Seed of the draw and of the order within each set.
        lengths: As for `BatchPlan`.
        **options: Further arguments of `BatchPlan`.

    Raises:
        ValueError: If the sizes do not sum up to `rows`, or no weight is above 0.
    """

    def __init__(
        self,
        rows: int,
        *,
        sizes: Sequence[int],
        weights: Sequence[float],
        total_steps: int,
        seed: int = 0,
        lengths: np.ndarray | None = None,
        **options: int,
    ) -> None:
        share = np.asarray(weights, dtype=np.float64)
        if sum(sizes) != rows or len(share) != len(sizes) or share.min() < 0 or share.sum() <= 0:
            raise ValueError(
                f"{len(sizes)} sets of {sum(sizes)} rows with weights {list(weights)} do not make up {rows} rows: give "
                "each set its size and a weight of 0 or more, one of them above 0."
            )
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self.sets = np.random.default_rng([seed, 17]).choice(len(share), size=total_steps, p=share / share.sum())
        # how often the step's set was drawn before it
        self.turns = np.zeros(total_steps, dtype=np.int64)
        for index in range(len(share)):
            here = self.sets == index
            self.turns[here] = np.arange(here.sum())
        self.plans = [
            BatchPlan(
                size,
                total_steps=max(1, int((self.sets == index).sum())),
                seed=seed + index,
                lengths=None if lengths is None else lengths[self.starts[index] : self.starts[index + 1]],
                **options,
            )
            for index, size in enumerate(sizes)
        ]
        self.rows = rows

    @property
    def global_batch_size(self) -> int:
        """Rows of one optimizer step over all processes and micro-batches."""
        return self.plans[0].global_batch_size

    def epoch(self, step: int) -> float:
        """Passes over all rows together that are complete after `step` steps."""
        return step * self.global_batch_size / self.rows

    def micro_batches(self, step: int, process: int = 0) -> list[np.ndarray]:
        """Rows of the micro-batches of one process, all of the step's set; see `BatchPlan`."""
        index = int(self.sets[step])
        start = self.starts[index]
        return [part + start for part in self.plans[index].micro_batches(int(self.turns[step]), process)]
