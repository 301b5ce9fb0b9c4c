"""Placing modality tokens into the prompt, and repeating items with their rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_no_placeholders", "count_items", "merge_features", "repeat_items"]


def merge_features(inputs_embeds: Tensor, input_ids: Tensor, features: Tensor, token_id: int, name: str) -> Tensor:
    """Put the tokens of a modality's items where its placeholders stand, in reading order.

    Args:
        inputs_embeds: Token embeddings `(batch, length, hidden)`.
        input_ids: `(batch, length)`.
        features: `(items, tokens, hidden)`.
        token_id: The modality's placeholder.
        name: The modality's name, for the error message.

    Returns:
        `(batch, length, hidden)`, dtype and device of `inputs_embeds`.

    Raises:
        ValueError: If the number of placeholders is not items x tokens, or a row holds part of an item.
    """
    mask = input_ids == token_id  # (batch, length)
    items, tokens = features.shape[:2]
    if not torch.compiler.is_compiling():
        rows = mask.sum(1)
        if int(rows.sum()) != items * tokens or bool((rows % tokens).any()):
            raise ValueError(
                f"the prompts hold {int(rows.sum())} placeholder tokens of modality {name!r} ({rows.tolist()[:16]} by "
                f"row), but {items} item(s) of {tokens} tokens were given, which need {items * tokens} placeholders in "
                f"whole runs of {tokens}. Let ModalBridgeProcessor write the placeholders, and do not truncate its "
                "output."
            )
    features = features.to(inputs_embeds.device, inputs_embeds.dtype)
    return inputs_embeds.masked_scatter(mask.unsqueeze(-1).to(inputs_embeds.device), features)


def check_no_placeholders(input_ids: Tensor, token_id: int, name: str) -> None:
    """Refuse a prompt that mentions a modality of which no item was given.

    Raises:
        ValueError: If `input_ids` holds the placeholder.
    """
    if torch.compiler.is_compiling():
        return
    count = int((input_ids == token_id).sum())
    if count:
        raise ValueError(
            f"the prompts hold {count} placeholder token(s) of modality {name!r}, but modality_inputs has 0 items of "
            f"it. Pass modality_inputs={{{name!r}: {{'embeds': ...}}}}, or take the placeholders out of the prompts."
        )


def count_items(input_ids: Tensor, token_id: int, tokens: int) -> list[int]:
    """Count the items of each row of `(batch, length)` ids."""
    return ((input_ids == token_id).sum(1) // tokens).tolist()


def repeat_items(inputs: Mapping[str, Any], counts: list[int], times: int) -> dict[str, Any]:
    """Repeat each row's items as often as `generate` repeats the row.

    Rows go A A B B, so items a1 a2 of A and b1 of B must go a1 a2 a1 a2 b1 b1. Repeating item by item would
    hand the second copy of A the wrong pictures without any error.

    Args:
        inputs: Tensors whose first axis is the items.
        counts: Items of each row.
        times: How often each row is repeated.

    Returns:
        The same keys with repeated tensors.
    """
    index, start = [], 0
    for count in counts:
        index += list(range(start, start + count)) * times
        start += count
    return {
        key: value[torch.tensor(index, dtype=torch.long, device=value.device)] if isinstance(value, Tensor) else value
        for key, value in inputs.items()
    }
