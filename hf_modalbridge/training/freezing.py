"""Freeze by module reference, then assert what trains."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

__all__ = ["assert_trainable", "train_only", "trainable_parameters"]


def train_only(model: nn.Module, modules: Iterable[nn.Module], dtype: torch.dtype | None = torch.float32) -> int:
    """Freeze the model except some of its modules.

    Modules are given themselves, not by name: a pattern that matches nothing freezes nothing, silently.

    Args:
        model: The model.
        modules: Modules of it that train.
        dtype: What trains is cast to this, for small steps vanish in bfloat16; None leaves it.

    Returns:
        Number of scalars that train.

    Raises:
        ValueError: If a module is not part of the model, has no parameter, or something else would train.
    """
    modules = list(modules)
    owned = {id(p) for p in model.parameters()}
    expected: dict[int, int] = {}
    for module in modules:
        own = list(module.parameters())
        if not own or any(id(p) not in owned for p in own):
            raise ValueError(
                f"a {type(module).__name__} with {len(own)} parameters was to train but "
                + ("has none" if not own else "is not part of the model")
                + ": pass a module of this very model."
            )
        expected.update({id(p): p.numel() for p in own})
    model.requires_grad_(False)
    for module in modules:
        module.requires_grad_(True)
        if dtype is not None:
            for parameter in module.parameters():
                parameter.data = parameter.data.to(dtype)
    count = sum(expected.values())
    assert_trainable(model, count)
    return count


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that train, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def assert_trainable(model: nn.Module, expected: int) -> None:
    """Check how many scalars train.

    Args:
        model: The model.
        expected: Their number.

    Raises:
        ValueError: If another number trains; the largest modules that do are named.
    """
    trainable = trainable_parameters(model)
    count = sum(p.numel() for p in trainable.values())
    if count == expected:
        return
    groups: dict[str, int] = {}
    for name, parameter in trainable.items():
        key = ".".join(name.split(".")[:3])
        groups[key] = groups.get(key, 0) + parameter.numel()
    raise ValueError(
        f"{count} parameters train, expected {expected}; by module: "
        f"{dict(sorted(groups.items(), key=lambda g: -g[1])[:8])}. Freeze with `train_only(model, modules)` after the "
        "last change of the model."
    )
