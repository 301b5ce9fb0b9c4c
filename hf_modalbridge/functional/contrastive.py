"""Contrastive losses over paired embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_modalbridge.functional.geometry import normalize_rows

__all__ = ["clip_loss"]


def clip_loss(image: Tensor, text: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Compute the symmetric contrastive loss of CLIP (arXiv 2103.00020, figure 3).

    Args:
        image: `(n, dim)`; row i belongs to row i of `text`. Rows are normalised here.
        text: `(n, dim)`.
        logit_scale: Factor of the cosines (100 for a trained CLIP), not its logarithm.

    Returns:
        Scalar: the mean of the cross-entropies over rows and over columns.

    Raises:
        ValueError: If the shapes differ.
    """
    if image.shape != text.shape:
        raise ValueError(
            f"contrastive pairs need two tensors of one shape (n, dim), got {tuple(image.shape)} and "
            f"{tuple(text.shape)}. Row i of one must belong to row i of the other."
        )
    logits = logit_scale * normalize_rows(image) @ normalize_rows(text).T  # (n, n)
    own = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))
