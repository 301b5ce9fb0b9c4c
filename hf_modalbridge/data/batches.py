"""Which rows make which batch: a pure function of the seed and the step, so that resuming needs no replay."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

__all__ = ["BatchPlan"]


class BatchPlan:
    """Rows of every optimizer step, of every micro-batch and process, computed from the step alone.

    The rows form an endless stream of epochs, each its own permutation; step `s` takes the next
    `global_batch_size` rows. With bucketing, the rows of `bucket_steps` steps are sorted by length and cut
    into steps again, whose order is then shuffled. Nothing depends on what was drawn before, and the rows of
    a step do not depend on how many processes or accumulation steps share them.

    Args:
        rows: Number of rows of the data set.
        batch_size: Rows of a micro-batch on one process.
        accumulation_steps: Micro-batches a process adds up for one optimizer step.
        num_processes: Processes that share a step.
        total_steps: Optimizer steps of the whole run; the last bucket ends there.
        seed: Seed of the order.
        lengths: Length of every row, shape `(rows,)`; None puts rows of any length together.
        bucket_steps: Steps sorted by length together; 0 or 1 sorts within a step only.

    Raises:
        ValueError: If there are no rows, or a size is not positive.
    """

    def __init__(
        self,
        rows: int,
        *,
        batch_size: int,
        accumulation_steps: int = 1,
        num_processes: int = 1,
        total_steps: int,
        seed: int = 0,
        lengths: np.ndarray | None = None,
        bucket_steps: int = 16,
    ) -> None:
        if rows < 1:
            raise ValueError("the data set has no rows: check the path of the store or of the JSONL file.")
        if min(batch_size, accumulation_steps, num_processes, total_steps) < 1:
            raise ValueError(
                f"batch_size={batch_size}, accumulation_steps={accumulation_steps}, "
                f"num_processes={num_processes} and total_steps={total_steps} must all be at least 1."
            )
        if lengths is not None and len(lengths) != rows:
            raise ValueError(f"got {len(lengths)} lengths for {rows} rows: give one length a row.")
        self.rows, self.batch_size, self.num_processes = rows, batch_size, num_processes
        self.accumulation_steps, self.total_steps, self.seed = accumulation_steps, total_steps, seed
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.bucket_steps = max(1, bucket_steps)
        self.permutation = lru_cache(maxsize=2)(self._permutation)
        self.bucket = lru_cache(maxsize=2)(self._bucket)

    @property
    def global_batch_size(self) -> int:
        """Rows of one optimizer step over all processes and micro-batches."""
        return self.batch_size * self.accumulation_steps * self.num_processes

    def epoch(self, step: int) -> float:
        """Passes over the data that are complete after `step` steps."""
        return step * self.global_batch_size / self.rows

    def step_rows(self, step: int) -> np.ndarray:
        """Rows of a step, shape `(global_batch_size,)`, sorted by length if lengths are known."""
        return self.bucket(step // self.bucket_steps)[step % self.bucket_steps]

    def micro_batches(self, step: int, process: int = 0) -> list[np.ndarray]:
        """Rows of the micro-batches of one process.

        Micro-batches of neighbouring lengths go to different processes at the same time, so none waits long.

        Args:
            step: Optimizer step, from 0.
            process: Index of the process.

        Returns:
            `accumulation_steps` arrays of shape `(batch_size,)`.
        """
        parts = self.step_rows(step).reshape(-1, self.batch_size)
        return list(parts[process :: self.num_processes])

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.rows)

    def _stream(self, start: int, stop: int) -> np.ndarray:
        parts = []
        while start < stop:
            epoch, first = divmod(start, self.rows)
            last = min(self.rows, first + stop - start)
            parts.append(self.permutation(epoch)[first:last])
            start += last - first
        return np.concatenate(parts)

    def _bucket(self, index: int) -> np.ndarray:
        first = index * self.bucket_steps
        steps = max(1, min(self.bucket_steps, self.total_steps - first))
        size = self.global_batch_size
        rows = self._stream(first * size, (first + steps) * size)
        if self.lengths is None:
            return rows.reshape(steps, size)
        rows = rows[np.argsort(self.lengths[rows], kind="stable")].reshape(steps, size)
        return rows[np.random.default_rng([self.seed, index, 1]).permutation(steps)]
