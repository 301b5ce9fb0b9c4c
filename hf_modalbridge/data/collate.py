"""From rows of any of our data sets to a padded batch."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

__all__ = ["BridgeCollator"]


class BridgeCollator:
    """Pads rows on the right and brings their items together, in reading order.

    Args:
        processor: The bridge's processor, which knows the padding token.
    """

    def __init__(self, processor: Any) -> None:
        tokenizer = processor.tokenizer
        pad = tokenizer.pad_token_id
        self.pad_token_id = pad if pad is not None else (tokenizer.eos_token_id or 0)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch.

        Args:
            rows: `{"id", "input_ids" (tokens,), "labels" (tokens,), "items": {modality: {kind: (items, dim)}}}`.

        Returns:
            `input_ids`, `attention_mask`, `labels` `(batch, length)`, `ids`, and `modality_inputs` if a row has items.
        """
        ids = [row["input_ids"] for row in rows]
        batch: dict[str, Any] = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
            "labels": pad_sequence([row["labels"] for row in rows], batch_first=True, padding_value=-100),
            "ids": [row["id"] for row in rows],
        }
        items: dict[str, dict[str, list[torch.Tensor]]] = {}
        for row in rows:
            for modality, kinds in row["items"].items():
                for kind, values in kinds.items():
                    items.setdefault(modality, {}).setdefault(kind, []).append(values)
        if items:
            batch["modality_inputs"] = {
                modality: {kind: torch.cat(values) for kind, values in kinds.items()}
                for modality, kinds in items.items()
            }
        return batch
