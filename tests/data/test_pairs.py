from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_world import build_tokenizer

from hf_modalbridge.data.pairs import PairSets, StoreFeatures, TextFeatures, pair_rows

TOKENIZER = build_tokenizer()
TABLE = torch.randn(len(TOKENIZER), 6, generator=torch.Generator().manual_seed(0))


def test_short_captions_are_said_again_and_long_ones_cut():
    captions = ["a red chair", "a", "a blue house on the floor."]
    features, mask = TextFeatures(captions, TOKENIZER, TABLE, 5)[np.array([2, 0, 1])]
    assert mask is None
    for row, caption in zip(features, (captions[2], captions[0], captions[1]), strict=True):
        ids = (TOKENIZER(caption)["input_ids"] * 5)[:5]
        torch.testing.assert_close(row, TABLE[ids], rtol=0, atol=0)


def test_a_caption_without_tokens_is_named():
    with pytest.raises(ValueError, match=r"captions \[1\] have no token"):
        TextFeatures(["a chair", ""], TOKENIZER, TABLE, 4)


def test_pairs_by_key_and_batches_of_one_edge():
    source, target = pair_rows(["b", "a", "c", "a"], ["a", "b", "a"])
    assert source.tolist() == [0, 1, 3] and target.tolist() == [1, 0, 0]
    rows = np.arange(24, dtype=np.float32).reshape(4, 6)
    edge = {"point": StoreFeatures(rows, 2, positions=source), "image": StoreFeatures(rows[:3], 1, positions=target)}
    other = {"point": StoreFeatures(rows, 2), "text": TextFeatures(["a red chair"] * 4, TOKENIZER, TABLE, 3)}
    pairs = PairSets([edge, other])
    batch = pairs.batch([2, 0])["features"]
    torch.testing.assert_close(batch["point"], torch.from_numpy(rows[[3, 0]]).view(2, 2, 3))
    torch.testing.assert_close(batch["image"], torch.from_numpy(rows[[0, 1]]).view(2, 1, 6))
    assert set(pairs.batch([3, 6])["features"]) == {"point", "text"}
    with pytest.raises(ValueError, match="several edges"):
        pairs.batch([2, 3])
