"""Rows of ids, labels and items put together into one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature

from .supervised_loss import IGNORE_INDEX

__all__ = ["ModalBridgeBatch", "make_batch"]


class ModalBridgeBatch(BatchFeature):
    """A batch whose `modality_inputs` is a dict of dicts; `to` moves those too."""

    def to(self, *args: Any, **kwargs: Any) -> ModalBridgeBatch:
        """Move all tensors, and cast floating ones if a dtype is given (embeddings stay as they are)."""
        nested = self.data.pop("modality_inputs", None)
        super().to(*args, **kwargs)
        if nested is not None:
            device = kwargs.get("device", next((a for a in args if not isinstance(a, torch.dtype)), None))
            self.data["modality_inputs"] = {
                name: {
                    k: v.to(device) if isinstance(v, Tensor) and device is not None else v for k, v in values.items()
                }
                for name, values in nested.items()
            }
        return self


def make_batch(
    ids: list[list[int]],
    labels: list[list[int]] | None,
    modality_inputs: dict[str, Any],
    *,
    pad: int,
    placeholder_ids: set[int],
    padding_side: str,
    max_length: int | None = None,
    cut: bool = False,
) -> ModalBridgeBatch:
    """Check, cut and pad rows of ids.

    Args:
        ids: Token ids of each row.
        labels: Labels of each row, or None.
        modality_inputs: The model's inputs by modality.
        pad: Padding id.
        placeholder_ids: Ids that may not be cut off.
        padding_side: `left` or `right`.
        max_length: Longest row, in tokens.
        cut: Whether to cut longer rows at the end rather than refuse them.

    Returns:
        `input_ids`, `attention_mask`, `labels` `(batch, length)` int64, and `modality_inputs`; the last two if given.

    Raises:
        ValueError: If a row is too long, loses placeholders, or has no supervised token; rows are listed.
    """
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side is {padding_side!r}, expected 'left' or 'right'.")
    long = [row for row, tokens in enumerate(ids) if max_length is not None and len(tokens) > max_length]
    if long and not cut:
        raise ValueError(f"prompts {long[:10]} are longer than max_length={max_length} tokens; shorten them.")
    for row in long:
        if placeholder_ids & set(ids[row][max_length:]):
            raise ValueError(
                f"row {row} has {len(ids[row])} tokens, and cutting it to max_length={max_length} would cut off "
                "modality tokens. Raise max_length, or leave the row out."
            )
        ids[row] = ids[row][:max_length]
        if labels is not None:
            labels[row] = labels[row][:max_length]
    if labels is not None:
        empty = [row for row, values in enumerate(labels) if all(v == IGNORE_INDEX for v in values[1:])]
        if empty:
            raise ValueError(
                f"row(s) {empty[:10]} have no supervised token: no answer is in them, or max_length={max_length} cut "
                "it off. Leave these rows out, or raise max_length."
            )
    data: dict[str, Any] = {
        "input_ids": _pad(ids, pad, padding_side),
        "attention_mask": _pad([[1] * len(row) for row in ids], 0, padding_side),
    }
    if labels is not None:
        data["labels"] = _pad(labels, IGNORE_INDEX, padding_side)
    if modality_inputs:
        data["modality_inputs"] = modality_inputs
    return ModalBridgeBatch(data)


def _pad(rows: Sequence[Sequence[int]], value: int, side: str) -> Tensor:
    """Pad rows to one length, `(batch, length)` int64."""
    length = max(map(len, rows))
    padded = torch.full((len(rows), length), value, dtype=torch.long)
    for i, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
        padded[i, where] = torch.tensor(row, dtype=torch.long)
    return padded
