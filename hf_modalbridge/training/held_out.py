"""Loss on held-out rows, and what it shares with the loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn

__all__ = ["Collate", "fetch_rows", "held_out_loss", "loss_terms", "supervised_tokens"]

Collate = Callable[[list[Any]], dict[str, Any]]


@torch.no_grad()
def held_out_loss(
    model: nn.Module,
    dataset: Any,
    collate: Collate,
    batch_size: int = 8,
    accelerator: Accelerator | None = None,
) -> float:
    """Mean loss per supervised token of a data set.

    Args:
        model: In evaluation mode; called with `reduction="sum"`.
        dataset: Rows by index.
        collate: From a list of rows to a batch with `labels`.
        batch_size: Rows of one forward pass on one process.
        accelerator: Of a run on several processes, each of which then takes its share.

    Returns:
        Nats per token.
    """
    lengths = getattr(dataset, "lengths", None)
    order = np.arange(len(dataset)) if lengths is None else np.argsort(lengths, kind="stable")
    batches: list[np.ndarray] = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    processes, rank = (accelerator.num_processes, accelerator.process_index) if accelerator else (1, 0)
    device = accelerator.device if accelerator else next(model.parameters()).device
    total = torch.zeros(2, dtype=torch.float32 if device.type == "mps" else torch.float64)
    for i in range(rank, math.ceil(len(batches) / processes) * processes, processes):
        # sharded models need every process at every forward pass: the ones without a batch repeat one, unweighted
        batch = collate(fetch_rows(dataset, batches[i % len(batches)].tolist()))
        inputs = send_to_device({k: v for k, v in batch.items() if k != "ids"}, device)
        loss = model(**inputs, reduction="sum").loss
        if i < len(batches):
            total += torch.tensor([float(loss), loss_terms(batch)], dtype=total.dtype)
    if accelerator is not None and processes > 1:
        total = accelerator.reduce(total.to(device), "sum")
    return float(total[0] / total[1])


def fetch_rows(dataset: Any, rows: list[int]) -> list[Any]:
    """Rows of a data set, all at once if it can give them so."""
    getter = getattr(dataset, "__getitems__", None)
    return getter(rows) if getter is not None else [dataset[i] for i in rows]


def loss_terms(batch: dict[str, Any]) -> int:
    """Number of terms that a batch's loss is the mean of: supervised tokens, or pairs of a batch without labels."""
    if "labels" in batch:
        return supervised_tokens(batch["labels"])
    return len(next(iter(batch["features"].values())))


def supervised_tokens(labels: Tensor) -> int:
    """Number of tokens of `(batch, length)` labels that a next-token loss counts."""
    return int((labels[:, 1:] != -100).sum())
