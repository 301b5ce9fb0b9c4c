"""What a finished run of the pairwise route is worth on held-out items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .graph import TEXT

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HeldOutItems", "HeldOutTriples", "evaluate_aligner", "evaluate_bridge"]


@dataclass
class HeldOutItems:
    """Items of one modality with captions, and labels if there are any.

    Args:
        modality: Its name.
        store: Store of their tokens.
        text_column: Column with the captions.
        label_column: Column with labels for the choice among labels; None leaves it out.
        labels: The labels to choose from; None takes all that occur in the store.
        choices: Captions to choose from.
    """

    modality: str
    store: str
    text_column: str = "text"
    label_column: str | None = None
    labels: list[str] | None = None
    choices: int = 20


@dataclass
class HeldOutTriples:
    """Items that were held out in all modalities: rows of the stores belong together.

    Args:
        stores: Store of each modality.
    """

    stores: dict[str, str]


def evaluate_bridge(
    model: Any,
    processor: Any,
    items: HeldOutItems,
    question: str | None,
    per_item: bool = False,
    features: Any | None = None,
) -> dict[str, Any]:
    """Measure caption likelihood, choice of captions and choice of labels.

    Args:
        model: `ModalBridgeForConditionalGeneration`, in evaluation mode.
        processor: Its processor.
        items: The held-out items.
        question: Asked in the chat template; None uses the plain prompt.
        per_item: Add the numbers of each item.
        features: What the model reads of the items, if that is not what the store holds.

    Returns:
        Plain values; see `evaluate_captions` and `label_choice`.
    """
    from hf_modalbridge.evaluation.caption_nll import evaluate_captions
    from hf_modalbridge.evaluation.label_choice import label_choice
    from hf_modalbridge.store import EmbeddingStore

    store = EmbeddingStore.open(items.store)
    captions = store.column(items.text_column)
    n = min(items.choices, len(set(captions)))
    features = store if features is None else features
    options: dict[str, Any] = {"question": question, "per_item": per_item}
    result = evaluate_captions(model, processor, items.modality, features, captions, n=n, **options)
    if items.label_column is not None:
        labels = [str(label).lower() for label in store.column(items.label_column)]
        answers = sorted(set(labels)) if items.labels is None else [label.lower() for label in items.labels]
        result["labels"] = label_choice(model, processor, items.modality, features, labels, answers, **options)
    return result


def evaluate_aligner(
    aligner: Any,
    triples: HeldOutTriples,
    normalized: Sequence[str] = (),
    per_item: bool = False,
    captions: Tensor | None = None,
    anchors: tuple[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Measure retrieval and recomposition between all modalities of held-out triples.

    Args:
        aligner: A `PairwiseAligner`.
        triples: The held-out items.
        normalized: Modalities whose tokens are made unit rows first.
        per_item: Add each query's rank.
        captions: The items' captions as text tokens `(items, tokens, dim)`, to measure the text side too.
        anchors: Measure retrieval by way of these items too, as `anchored`; see `cross_modal_retrieval`.

    Returns:
        `{"source-target": {...}}`; see `cross_modal_retrieval` and `recomposition_quality`.
    """
    import numpy as np
    import torch

    from hf_modalbridge.evaluation.cross_modal import cross_modal_retrieval, recomposition_quality
    from hf_modalbridge.store import EmbeddingStore

    features = {}
    for name, path in triples.stores.items():
        rows = torch.from_numpy(np.asarray(EmbeddingStore.open(Path(path))[:], np.float32))
        tokens = rows.view(len(rows), aligner.config.modalities[name].num_tokens, -1)
        features[name] = torch.nn.functional.normalize(tokens, dim=-1) if name in normalized else tokens
    if captions is not None:
        features[TEXT] = captions
    result = {}
    for source in features:
        for target in features:
            if source != target:
                pair = source, target, features[source], features[target]
                result[f"{source}-{target}"] = {
                    "retrieval": cross_modal_retrieval(aligner, *pair, per_item=per_item),
                    "recomposition": recomposition_quality(aligner, *pair),
                }
                if anchors is not None:
                    found = cross_modal_retrieval(aligner, *pair, anchors=anchors, per_item=per_item)
                    result[f"{source}-{target}"]["anchored"] = found
    return result
