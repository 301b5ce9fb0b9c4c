"""Choice among labels: which of a few fixed words does the model find likeliest for an item?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .intervals import bootstrap_interval
from .scoring import CaptionScorer

__all__ = ["label_choice"]


def label_choice(
    model: Any,
    processor: Any,
    modality: str,
    embeddings: Any,
    labels: Sequence[str],
    answers: Sequence[str],
    *,
    question: str | None = None,
    seed: int = 0,
    per_item: bool = False,
) -> dict[str, Any]:
    """Share of items whose label gets the highest likelihood, with a 95 % bootstrap interval over items.

    The raw choice takes the highest log-likelihood per token, the calibrated one the highest
    `log p(label | item) - mean of log p(label | other item)` over all other items, which takes out how likely a label
    is by itself.

    Args:
        model: `ModalBridgeForConditionalGeneration`, in evaluation mode.
        processor: Its processor.
        modality: Name of the modality.
        embeddings: `(items, dim)` array, tensor, or `EmbeddingStore`.
        labels: The label of each item, one of `answers`.
        answers: All labels, as the model is to say them.
        question: Asked in the chat template; None uses the plain prompt.
        seed: Of the bootstrap.
        per_item: Add each item's credit.

    Returns:
        `items`, `ways`, `chance`, `most_frequent` (the share of the commonest label), and `raw` and `calibrated` as
        `{"mean", "low", "high"}`.

    Raises:
        ValueError: If a label is not among the answers, there is not one an item, or there is one item only.
    """
    place = {answer: i for i, answer in enumerate(answers)}
    unknown = sorted({label for label in labels if label not in place})
    if unknown or len(labels) != len(embeddings) or len(place) != len(answers):
        raise ValueError(
            f"{len(labels)} labels for {len(embeddings)} items, of which {unknown[:5]} are not among the "
            f"{len(answers)} answers (each once): give one label an item, all of them among the answers."
        )
    if len(labels) < 2:
        raise ValueError(
            "a choice of labels is calibrated by the other items, and there is one item: give two or more."
        )
    true = np.array([place[label] for label in labels])
    scorer = CaptionScorer(model, processor, modality, answers, question=question)
    features = scorer.features(embeddings)
    every = np.arange(len(answers))
    log_probs = scorer.log_probs(features, np.broadcast_to(every, (len(labels), len(answers))))
    prior = (log_probs.sum(0) - log_probs) / (len(log_probs) - 1)  # an item is no reference for itself
    result: dict[str, Any] = {
        "items": len(labels),
        "ways": len(answers),
        "chance": 1 / len(answers),
        "most_frequent": float(np.bincount(true).max() / len(true)),
    }
    for name, scores in (("raw", log_probs / scorer.token_counts), ("calibrated", log_probs - prior)):
        # a model that does not see the item ties all calibrated scores, and comes out at chance
        best = scores >= scores.max(1, keepdims=True) - 1e-5
        credit = best[np.arange(len(true)), true] / best.sum(1)
        low, high = bootstrap_interval(credit, seed=seed)
        result[name] = {"mean": float(credit.mean()), "low": low, "high": high}
        if per_item:
            result.setdefault("per_item", {})[name] = credit.tolist()
    return result
