"""How well a model tells items apart in words: likelihood of the true caption, and the n-way choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from .intervals import bootstrap_interval
from .n_way_choice import choice_credit, draw_candidates
from .scoring import CaptionScorer

__all__ = ["caption_nll", "evaluate_captions"]


def caption_nll(
    model: Any,
    processor: Any,
    modality: str,
    embeddings: Any,
    captions: Sequence[str],
    *,
    kind: str = "embeds",
    question: str | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Negative log-likelihood per token of each item's true caption, end token included.

    Args:
        model: `ModalBridgeForConditionalGeneration`, in evaluation mode.
        processor: Its processor.
        modality: Name of the modality.
        embeddings: `(items, dim)` array, tensor, or `EmbeddingStore`.
        captions: One an item.
        kind: `embeds` are the modality's own, `imagine_embeds` text embeddings.
        question: Asked in the chat template; None uses the plain prompt.
        progress: Show a progress bar.

    Returns:
        `(items,)` nats per token.

    Raises:
        ValueError: If there is not one caption an item.
    """
    _check_counts(embeddings, captions)
    scorer = CaptionScorer(model, processor, modality, captions, question=question)
    own = np.arange(len(captions))
    log_probs = scorer.log_probs(scorer.features(embeddings, kind), own[:, None], progress)
    return -log_probs[:, 0] / scorer.token_counts


def evaluate_captions(
    model: Any,
    processor: Any,
    modality: str,
    embeddings: Any,
    captions: Sequence[str],
    *,
    kind: str = "embeds",
    question: str | None = None,
    n: int = 10,
    seed: int = 0,
    references: int = 16,
    marginal: Literal["geometric", "arithmetic"] = "geometric",
    progress: bool = False,
    per_item: bool = False,
) -> dict[str, Any]:
    """Likelihood of the true caption and n-way caption choice, with 95 % bootstrap intervals over items.

    The raw choice takes the caption with the lowest negative log-likelihood per token. The calibrated one
    takes the highest `log p(caption | item) - log p(caption)`, which takes out how likely a caption is whatever the
    item; `p(caption)` is a mean of `p(caption | other item)` over other items. Ties count as fractions.

    Args:
        model: `ModalBridgeForConditionalGeneration`, in evaluation mode.
        processor: Its processor.
        modality: Name of the modality.
        embeddings: `(items, dim)` array, tensor, or `EmbeddingStore`.
        captions: One an item.
        kind: `embeds` are the modality's own, `imagine_embeds` text embeddings.
        question: Asked in the chat template; None uses the plain prompt.
        n: Captions to choose from.
        seed: Seed of the distractors, the other items and the bootstrap.
        references: How many other items.
        marginal: Which mean. The arithmetic one estimates the marginal probability, so that what is compared is
            pointwise mutual information (Lin et al., 2024, arXiv:2306.01879), but it hangs on the few items that the
            caption suits best and needs about a hundred; the geometric one does with a few.
        progress: Show a progress bar.
        per_item: Add the numbers of each item.

    Returns:
        Plain values for JSON: `items`, `nll_per_token`, `choice` with `n`, `chance`, `raw` and `calibrated`;
        each measure is `{"mean", "low", "high"}`.

    Raises:
        ValueError: If there is not one caption an item, there are fewer than `n` distinct captions, or fewer than
            two references, or `marginal` is neither.
    """
    _check_counts(embeddings, captions)
    if marginal not in ("geometric", "arithmetic"):
        raise ValueError(f"marginal={marginal!r}; give 'geometric' or 'arithmetic'.")
    if references < 2:
        raise ValueError(f"references={references}; give at least 2 other items to calibrate the choice by.")
    distinct, candidates = draw_candidates(captions, n, seed)
    scorer = CaptionScorer(model, processor, modality, distinct, question=question)
    features = scorer.features(embeddings, kind)
    log_probs = scorer.log_probs(features, candidates, progress)  # (items, n)
    others = np.random.default_rng(seed).permutation(len(features))[:references]
    every = np.tile(np.arange(len(distinct)), (len(others), 1))
    given_others = scorer.log_probs(features[torch.from_numpy(others)], every, progress)  # (references, distinct)
    prior = _log_mean(given_others, marginal)[candidates]  # (items, n)
    for k, item in enumerate(others):  # an item is no reference for itself
        prior[item] = _log_mean(np.delete(given_others[:, candidates[item]], k, axis=0), marginal)
    per_token = log_probs / scorer.token_counts[candidates]
    measures = {
        "nll_per_token": -per_token[:, 0],
        "raw": choice_credit(per_token),
        "calibrated": choice_credit(log_probs - prior),
    }
    summary = {name: _summary(values, seed) for name, values in measures.items()}
    result: dict[str, Any] = {
        "items": len(captions),
        "nll_per_token": summary["nll_per_token"],
        "choice": {
            "n": n,
            "seed": seed,
            "chance": 1 / n,
            "raw": summary["raw"],
            "calibrated": summary["calibrated"],
        },
        "question": question,
        "kind": kind,
    }
    if per_item:
        result["per_item"] = {name: values.tolist() for name, values in measures.items()}
    return result


def _log_mean(log_probs: np.ndarray, kind: str) -> np.ndarray:
    """Log of the mean of probabilities over the first axis."""
    if kind == "geometric":
        return log_probs.mean(0)
    return np.logaddexp.reduce(log_probs, axis=0) - np.log(len(log_probs))


def _summary(values: np.ndarray, seed: int) -> dict[str, float]:
    low, high = bootstrap_interval(values, seed=seed)
    return {"mean": float(values.mean()), "low": low, "high": high}


def _check_counts(embeddings: Any, captions: Sequence[str]) -> None:
    if len(embeddings) != len(captions) or not len(captions):
        raise ValueError(
            f"got {len(captions)} captions for {len(embeddings)} embeddings: give one an item, and at least one item."
        )
