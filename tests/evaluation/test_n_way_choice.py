from __future__ import annotations

import numpy as np
import pytest

from hf_modalbridge.evaluation import choice_credit, draw_candidates


def test_credit_by_hand():
    scores = np.array(
        [
            [3.0, 1.0, 2.0],  # the only best: 1
            [1.0, 3.0, 2.0],  # another is best: 0
            [3.0, 3.0, 2.0],  # one of two best: 1/2
            [5.0, 5.0, 5.0],  # one of three best: 1/3
            [2.0, 3.0, 3.0],  # two others are best: 0
            [1.0, 1.0 + 1e-9, 0.0],  # a tie but for rounding: 1/2
        ]
    )
    assert choice_credit(scores).tolist() == [1, 0, 0.5, 1 / 3, 0, 0.5]
    assert choice_credit(scores, tolerance=0)[5] == 0


def test_distractors_are_other_texts_and_fixed_by_the_seed():
    captions = ["a", "b", "c", "a", "d", "e", "b", "f"]
    distinct, rows = draw_candidates(captions, 4, seed=5)
    assert distinct == ["a", "b", "c", "d", "e", "f"]
    assert [distinct[r[0]] for r in rows] == captions
    assert all(len(set(r)) == 4 for r in rows.tolist())
    again = draw_candidates(captions, 4, seed=5)[1]
    assert (rows == again).all() and (rows != draw_candidates(captions, 4, seed=6)[1]).any()


def test_every_other_caption_is_drawn_equally_often():
    captions = [str(i % 5) for i in range(5000)]
    _, rows = draw_candidates(captions, 2)
    for true in range(5):
        others = rows[rows[:, 0] == true, 1]
        counts = np.bincount(others, minlength=5)
        assert counts[true] == 0
        np.testing.assert_allclose(np.delete(counts, true) / 1000, 0.25, atol=0.06)


def test_too_few_captions_are_refused():
    with pytest.raises(ValueError, match="10-way choice was asked for among 2 distinct"):
        draw_candidates(["a", "b", "a"], 10)
    with pytest.raises(ValueError, match="1-way"):
        draw_candidates(["a", "b"], 1)
