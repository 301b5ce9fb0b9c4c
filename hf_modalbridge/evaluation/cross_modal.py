"""Retrieval and recomposition across modalities of an aligner, also of those that were never paired."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .intervals import bootstrap_interval

__all__ = ["anchor_profiles", "cross_modal_retrieval", "recomposition_quality", "retrieval_ranks"]


def retrieval_ranks(queries: Tensor, gallery: Tensor) -> np.ndarray:
    """Rank of each query's own row among all rows of the gallery by inner product.

    Args:
        queries: `(n, dim)`.
        gallery: `(n, dim)`; row i belongs to query i.

    Returns:
        `(n,)` from 0; ties count half.
    """
    scores = queries.double() @ gallery.double().T  # (n, n)
    own = scores.diagonal()[:, None]
    above = (scores > own).sum(1).double() + 0.5 * ((scores == own).sum(1) - 1).double()
    return above.numpy()


def anchor_profiles(rows: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """Describe rows by how alike they are to anchors, instead of by where they lie.

    Two modalities that met a third one only agree on what is near to what there (relative representations,
    arXiv:2209.15430), while a gap of the means lies between them, which each side's own mean takes out.

    Args:
        rows: `(n, dim)`, of one modality.
        anchors: `(anchors, dim)`, of the modality between.
        temperature: Of the softmax over anchors; that of the contrastive loss is the scale of such likenesses.

    Returns:
        `(n, anchors)` unit rows: square roots of a softmax, so that an inner product is the Bhattacharyya coefficient.
    """
    rows, anchors = (torch.nn.functional.normalize(x - x.mean(0), dim=-1) for x in (rows.double(), anchors.double()))
    return (rows @ anchors.T / temperature).softmax(-1).sqrt()


@torch.inference_mode()
def cross_modal_retrieval(
    aligner: Any,
    source: str,
    target: str,
    queries: Tensor,
    gallery: Tensor,
    *,
    query_mask: Tensor | None = None,
    gallery_mask: Tensor | None = None,
    anchors: tuple[str, Tensor] | None = None,
    at: tuple[int, ...] = (1, 5, 10),
    seed: int = 0,
    per_item: bool = False,
) -> dict[str, Any]:
    """Find items of one modality by items of another in the shared code.

    Args:
        aligner: A `PairwiseAligner`. The modalities need no edge, only a path: codes are compared on the channels that
            all edges of the path share.
        source: Modality of the queries.
        target: Modality of the gallery.
        queries: Token features `(n, tokens, dim)`.
        gallery: Token features `(n, tokens, dim)`; row i belongs to query i.
        query_mask: `(n, tokens)`, True for real tokens.
        gallery_mask: `(n, tokens)`, likewise.
        anchors: Modality and token features `(anchors, tokens, dim)` of items of it, such as captions. Queries and
            gallery are then compared by their likeness to these (`anchor_profiles`), not to each other: for modalities
            that were never paired.
        at: Ranks.
        seed: Of the bootstrap.
        per_item: Add each query's rank.

    Returns:
        `items`, `paired` (whether the two were paired in training), `R@k` with its 95 % interval and chance, and
        `median_rank` from 1.
    """
    active = aligner.config.active_entries(source, target)
    sides = [aligner.embed(source, queries, query_mask, active), aligner.embed(target, gallery, gallery_mask, active)]
    if anchors is not None:
        between = aligner.embed(*anchors, None, active)
        sides = [anchor_profiles(side, between, float(aligner.temperature())) for side in sides]
    ranks = retrieval_ranks(*sides)
    result: dict[str, Any] = {
        "source": source,
        "target": target,
        "items": len(ranks),
        "paired": aligner.config.edge(source, target) is not None,
        "median_rank": float(np.median(ranks) + 1),
    }
    for k in at:
        found = (ranks < k).astype(float)
        low, high = bootstrap_interval(found, seed=seed)
        result[f"R@{k}"] = {"mean": float(found.mean()), "low": low, "high": high, "chance": min(1.0, k / len(ranks))}
    if per_item:
        result["ranks"] = ranks.tolist()
    return result


@torch.inference_mode()
def recomposition_quality(aligner: Any, source: str, target: str, inputs: Tensor, wanted: Tensor) -> dict[str, Any]:
    """Compare what is recomposed with the item's real tokens.

    Args:
        aligner: A `PairwiseAligner`.
        source: Modality of the inputs.
        target: Modality that they are decoded in.
        inputs: Token features `(n, tokens, dim)`.
        wanted: Real features of the target `(n, tokens, dim)`; row i belongs to input i.

    Returns:
        `cosine` of recomposed and real tokens, both centred on the real mean; `explained`, 1 - squared error over
        variance; and `R@10` of the real item among all by the recomposed one.
    """
    output = aligner.recompose(source, target, inputs)[:, : wanted.shape[1]].double().flatten(1)
    wanted = wanted.double().flatten(1)
    mean = wanted.mean(0)
    a, b = (torch.nn.functional.normalize(x - mean, dim=1) for x in (output, wanted))
    explained = 1 - (output - wanted).square().sum() / (wanted - mean).square().sum()
    return {
        "source": source,
        "target": target,
        "items": len(wanted),
        "cosine": float((a * b).sum(1).mean()),
        "explained": float(explained),
        "R@10": float((retrieval_ranks(a, b) < 10).mean()),
    }
