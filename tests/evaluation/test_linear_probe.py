"""The probe is logistic regression, and sees nothing of the test rows."""

from __future__ import annotations

import numpy as np
import pytest

from hf_modalbridge.evaluation.linear_probe import linear_probe


def make(rows: int, seed: int, noise: float = 0.5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=rows)
    x = np.eye(3)[labels] @ np.random.default_rng(9).normal(size=(3, 8)) + noise * rng.normal(size=(rows, 8))
    return x, [f"label {i}" for i in labels]


def test_it_equals_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    (x, y), (z, w) = make(90, 0), make(60, 1)
    result = linear_probe(x, y, z, w, penalties=(0.1,))
    mean, std = x.mean(0), x.std(0, ddof=1)
    peer = linear_model.LogisticRegression(C=1 / (0.1 * 90), tol=1e-8).fit((x - mean) / std, y)
    assert result.correct.tolist() == (peer.predict((z - mean) / std) == np.array(w)).tolist()


def test_the_penalty_is_chosen_without_the_test_rows():
    x, y = make(60, 0, noise=3.0)
    noise = np.random.default_rng(4).normal(size=(60, 200))  # what a weak penalty fits
    wide = np.hstack([x, noise])
    assert linear_probe(wide, y, wide, y).penalty >= 0.1
    assert linear_probe(wide, y, wide[:5], ["other"] * 5).penalty == linear_probe(wide, y, wide, y).penalty


def test_unknown_labels_are_missed_and_the_interval_holds_the_mean():
    (x, y), (z, w) = make(90, 0), make(60, 1)
    result = linear_probe(x, y, z, ["never seen", *w[1:]])
    assert not result.correct[0] and result.correct[1:].mean() > 0.8
    low, high = result.interval()
    assert low < result.accuracy < high


def test_wrong_shapes():
    x, y = make(9, 0)
    with pytest.raises(ValueError, match=r"\(9, 8\) and \(9, 4\)"):
        linear_probe(x, y, x[:, :4], y)
    with pytest.raises(ValueError, match="9 test rows and 8 labels"):
        linear_probe(x, y, x, y[1:])
