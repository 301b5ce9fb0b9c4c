"""Parameter groups of AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from .config import LoopConfig
from .freezing import trainable_parameters

__all__ = ["parameter_groups"]


def parameter_groups(
    model: nn.Module, args: LoopConfig, learning_rates: Mapping[nn.Module, float]
) -> list[dict[str, Any]]:
    """Group what trains by learning rate and decay.

    Args:
        model: The model.
        args: Settings of the loop.
        learning_rates: Peak learning rate of some modules, instead of the settings'.

    Returns:
        Groups for the optimizer; `peak` is what the schedule multiplies.

    Raises:
        ValueError: If nothing trains.
    """
    rates = {id(p): rate for module, rate in learning_rates.items() for p in module.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in trainable_parameters(model).values():
        decay = args.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rates.get(id(parameter), args.learning_rate), decay), []).append(parameter)
    if not groups:
        raise ValueError("no parameter of the model requires gradients: call `train_only(model, modules)` first.")
    return [{"params": p, "lr": lr, "peak": lr, "weight_decay": decay} for (lr, decay), p in groups.items()]
