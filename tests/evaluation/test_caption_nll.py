from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_world import DIM
from torch.nn import functional as F

from hf_modalbridge.evaluation import CaptionScorer, caption_nll, draw_candidates, evaluate_captions, scoring

ITEMS = 14


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ITEMS, DIM)).astype(np.float32)


@torch.no_grad()
def log_prob(bridge, embedding: np.ndarray, caption: str, question: str | None) -> tuple[float, int]:
    """One item, one caption, the whole model on the whole prompt."""
    model, processor = bridge
    if question is None:
        batch = processor.plain([caption], "image", embeds=embedding[None])
    else:
        user = [{"type": "image", "embedding": embedding}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": user}, {"role": "assistant", "content": caption}]
        batch = processor.apply_chat_template(messages, return_labels=True)
    labels = batch.pop("labels")
    logits = model(**batch).logits[:, :-1]
    loss = F.cross_entropy(logits[0], labels[0, 1:], ignore_index=-100, reduction="sum")
    return -loss.item(), int((labels[0, 1:] != -100).sum())


@pytest.mark.parametrize("question", [None, "What is this?"])
@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("at_once", [2**27, 1])
def test_scores_are_those_of_single_calls(bridge, embeddings, world, question, share_prefix, at_once, monkeypatch):
    monkeypatch.setattr(scoring, "_LOGITS_AT_ONCE", at_once)
    captions = world.captions[:ITEMS]
    scorer = CaptionScorer(*bridge, "image", captions, question=question, share_prefix=share_prefix)
    candidates = np.random.default_rng(1).integers(0, ITEMS, (ITEMS, 3))
    got = scorer.log_probs(scorer.features(embeddings, batch_size=5), candidates)
    expected = [
        [log_prob(bridge, embeddings[i], captions[c], question)[0] for c in candidates[i]] for i in range(ITEMS)
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert scorer.token_counts.tolist() == [log_prob(bridge, embeddings[0], c, question)[1] for c in captions]


def test_nll_is_per_token_of_the_true_caption(bridge, embeddings, world):
    captions = world.captions[:ITEMS]
    got = caption_nll(*bridge, "image", embeddings, captions)
    expected = [-lp / n for lp, n in (log_prob(bridge, e, c, None) for e, c in zip(embeddings, captions, strict=True))]
    np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize("marginal", ["geometric", "arithmetic"])
def test_evaluation_by_hand(bridge, embeddings, world, marginal):
    captions = world.captions[:ITEMS]
    result = evaluate_captions(
        *bridge, "image", embeddings, captions, n=4, seed=2, references=3, marginal=marginal, per_item=True
    )
    distinct, candidates = draw_candidates(captions, 4, seed=2)
    others = np.random.default_rng(2).permutation(ITEMS)[:3]
    raw, calibrated, nll = [], [], []
    for i, row in enumerate(candidates):
        pairs = [log_prob(bridge, embeddings[i], distinct[c], None) for c in row]
        per_token = [lp / n for lp, n in pairs]
        known = [[log_prob(bridge, embeddings[k], distinct[c], None)[0] for k in others if k != i] for c in row]
        gains = [
            lp - (np.mean(prior) if marginal == "geometric" else np.log(np.mean(np.exp(prior))))
            for (lp, _), prior in zip(pairs, known, strict=True)
        ]
        raw.append(float(np.argmax(per_token) == 0))
        calibrated.append(float(np.argmax(gains) == 0))
        nll.append(-per_token[0])
    assert result["per_item"]["raw"] == raw
    assert result["per_item"]["calibrated"] == calibrated
    assert result["per_item"]["nll_per_token"] == pytest.approx(nll, rel=1e-4)
    assert 0 < sum(calibrated) < ITEMS and raw != calibrated  # else the two could be the same thing
    assert result["choice"]["raw"]["mean"] == pytest.approx(np.mean(raw))
    assert result["choice"]["raw"]["low"] <= np.mean(raw) <= result["choice"]["raw"]["high"]
    assert result["choice"]["chance"] == 0.25


@pytest.mark.parametrize("marginal", ["geometric", "arithmetic"])
def test_a_blind_model_is_at_chance_when_calibrated(bridge, world, marginal):
    same = np.ones((96, DIM), dtype=np.float32)
    result = evaluate_captions(*bridge, "image", same, world.captions, n=5, marginal=marginal)
    assert result["choice"]["calibrated"] == {
        "mean": pytest.approx(0.2),
        "low": pytest.approx(0.2),
        "high": pytest.approx(0.2),
    }


def test_captions_must_match_items(bridge, embeddings):
    with pytest.raises(ValueError, match="1 captions for 14 embeddings"):
        caption_nll(*bridge, "image", embeddings, ["a chair"])
    with pytest.raises(ValueError, match="references=1; give at least 2"):
        evaluate_captions(*bridge, "image", embeddings[:3], ["a", "b", "c"], n=2, references=1)
    with pytest.raises(ValueError, match="marginal='mean'; give 'geometric' or 'arithmetic'"):
        evaluate_captions(*bridge, "image", embeddings[:3], ["a", "b", "c"], n=2, marginal="mean")
