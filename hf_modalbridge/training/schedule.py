"""Learning rate as a pure function of the step, so that a checkpoint need not hold a scheduler's state."""

from __future__ import annotations

import math

__all__ = ["learning_rate_factor", "warmup_length"]


def warmup_length(total_steps: int, warmup_ratio: float, warmup_steps: int | None) -> int:
    """Number of warm-up steps; `warmup_steps`, if given, wins over the ratio."""
    return math.ceil(total_steps * warmup_ratio) if warmup_steps is None else warmup_steps


def learning_rate_factor(step: int, total_steps: int, warmup: int, schedule: str = "cosine") -> float:
    """Share of the peak learning rate that a step uses.

    Args:
        step: Optimizer step, from 0.
        total_steps: Steps of the run.
        warmup: Steps of linear warm-up; the first uses `1 / warmup` and not 0, so that no step is idle.
        schedule: `cosine` falls to 0 after the last step, `constant` stays.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: If the schedule is unknown.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))
    raise ValueError(f"schedule is {schedule!r}, expected 'cosine' or 'constant'.")
