"""Choice among labels, beside the same numbers from single calls."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_world import DIM

from hf_modalbridge.evaluation import CaptionScorer, label_choice

ANSWERS = ["chair", "table", "lamp", "a red chair"]
LABELS = ["chair", "lamp", "chair", "table", "lamp"]


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(len(LABELS), DIM)).astype(np.float32)


def test_choices_by_hand(bridge, embeddings):
    result = label_choice(*bridge, "image", embeddings, LABELS, ANSWERS, per_item=True)
    scorer = CaptionScorer(*bridge, "image", ANSWERS)
    features = scorer.features(embeddings)
    table = np.array([[scorer.log_probs(f[None], np.array([[a]]))[0, 0] for a in range(4)] for f in features])
    for i, label in enumerate(LABELS):
        others = np.delete(table, i, axis=0).mean(0)
        assert result["per_item"]["calibrated"][i] == (ANSWERS[(table[i] - others).argmax()] == label)
        assert result["per_item"]["raw"][i] == (ANSWERS[(table[i] / scorer.token_counts).argmax()] == label)
    assert (result["items"], result["ways"], result["chance"], result["most_frequent"]) == (5, 4, 0.25, 0.4)
    assert result["raw"]["mean"] == np.mean(result["per_item"]["raw"])


def test_a_model_that_does_not_see_the_items_is_at_chance(bridge, embeddings):
    result = label_choice(*bridge, "image", np.ones_like(embeddings), LABELS, ANSWERS, per_item=True)
    assert result["per_item"]["calibrated"] == [0.25] * 5
    assert result["raw"]["mean"] in (0.0, 0.2, 0.4)  # always the same answer


def test_labels_that_cannot_be_are_refused(bridge, embeddings):
    with pytest.raises(ValueError, match="'sofa'"):
        label_choice(*bridge, "image", embeddings, ["sofa"] * 5, ANSWERS)
    with pytest.raises(ValueError, match="one item"):
        label_choice(*bridge, "image", embeddings[:1], LABELS[:1], ANSWERS)
