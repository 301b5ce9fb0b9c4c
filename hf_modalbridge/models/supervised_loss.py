"""Next-token loss on the supervised columns only."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["IGNORE_INDEX", "supervised_columns", "token_loss"]

IGNORE_INDEX = -100


def supervised_columns(labels: Tensor) -> Tensor:
    """Find the columns whose next token is supervised in any row.

    Args:
        labels: `(batch, length)`, `-100` where nothing is asked.

    Returns:
        Sorted column indices `(columns,)`: the logits at column t predict `labels[:, t + 1]`.

    Raises:
        ValueError: If nothing in the batch is supervised.
    """
    columns = (labels[:, 1:] != IGNORE_INDEX).any(0).nonzero().squeeze(-1)
    if columns.numel() == 0:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} supervise no token: every entry after the first column is "
            f"{IGNORE_INDEX}. Check that the prompts end with the answer to be learned and were not truncated before "
            "it."
        )
    return columns


def token_loss(
    logits: Tensor,
    targets: Tensor,
    reduction: Literal["mean", "sum", "none"] = "mean",
    num_items_in_batch: Tensor | int | None = None,
) -> Tensor:
    """Cross-entropy in float32.

    Args:
        logits: `(batch, columns, vocabulary)`.
        targets: `(batch, columns)`, already shifted; `-100` is left out.
        reduction: `mean` over the supervised tokens, `sum`, or `none`: `(batch, columns)` with zeros where
            unsupervised.
        num_items_in_batch: Divide the sum by this instead (gradient accumulation over batches of unequal length).

    Returns:
        A scalar, or `(batch, columns)` with `none`.
    """
    if num_items_in_batch is not None:
        reduction = "sum"
    loss = F.cross_entropy(
        logits.float().flatten(0, 1),
        targets.to(logits.device).flatten(),
        ignore_index=IGNORE_INDEX,
        reduction=reduction,
    )
    if reduction == "none":
        return loss.view(targets.shape)
    if num_items_in_batch is not None:
        return loss / torch.as_tensor(num_items_in_batch, device=loss.device)
    return loss
