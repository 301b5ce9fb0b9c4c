"""Retrieval across modalities: ranks, and likeness to anchors written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from hf_modalbridge import PairwiseAligner
from hf_modalbridge.evaluation import cross_modal_retrieval
from hf_modalbridge.evaluation.cross_modal import anchor_profiles, retrieval_ranks
from hf_modalbridge.models import PairwiseConfig


@pytest.fixture
def aligner() -> PairwiseAligner:
    """Pictures and clouds that meet in text alone."""
    torch.manual_seed(0)
    modalities = {
        "text": {"input_dim": 6, "num_tokens": 3},
        "image": {"input_dim": 5, "num_tokens": 1},
        "point": {"input_dim": 7, "num_tokens": 2},
    }
    edges = [{"source": source, "target": "text", "active": active} for source, active in (("image", 6), ("point", 5))]
    sizes = {"width": 8, "num_latents": 2, "encoder_layers": 1, "decoder_layers": 1, "heads": 2}
    return PairwiseAligner(PairwiseConfig(modalities=modalities, edges=edges, **sizes)).eval()


def test_ranks_count_what_is_nearer_and_half_of_what_is_as_near():
    queries = torch.eye(3)
    gallery = torch.tensor([[1.0, 0.0, 0.0], [2.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    # query 0: its own 1 is below 2; query 1: its own 1 ties with row 2; query 2: all are 0
    np.testing.assert_array_equal(retrieval_ranks(queries, gallery), [1.0, 0.5, 1.0])


def test_profiles_are_the_formula_written_out():
    rng = np.random.default_rng(0)
    rows, anchors = rng.normal(size=(5, 4)), rng.normal(size=(3, 4))
    x, a = rows - rows.mean(0), anchors - anchors.mean(0)
    expected = np.empty((5, 3))
    for i in range(5):
        for j in range(3):
            expected[i, j] = np.exp(x[i] @ a[j] / np.linalg.norm(x[i]) / np.linalg.norm(a[j]) / 0.3)
    expected = np.sqrt(expected / expected.sum(1, keepdims=True))
    found = anchor_profiles(torch.from_numpy(rows), torch.from_numpy(anchors), 0.3)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose((found**2).sum(1), 1.0, atol=1e-12)


def test_anchors_join_what_never_met():
    """Two sides that agree on a third's directions, and hold strong directions of their own beside them."""
    rng = np.random.default_rng(1)
    meaning = rng.normal(size=(200, 16))
    words = rng.normal(size=(400, 16))
    between = np.concatenate([words, np.zeros((400, 16))], 1)
    sides = [
        np.concatenate([meaning, rng.normal(size=(200, 16))], 1) + 3 * rng.normal(size=32) for _ in range(2)
    ]  # what the anchors do not span is noise, and the means are far apart
    first, second, anchors = (torch.from_numpy(x) for x in (*sides, between))
    direct = (retrieval_ranks(normalize(first, dim=1), normalize(second, dim=1)) < 1).mean()
    profiles = [anchor_profiles(side, anchors, 0.1) for side in (first, second)]
    assert (retrieval_ranks(*profiles) < 1).mean() > 0.9 > 0.5 > direct


def test_retrieval_by_anchors_reads_the_shared_channels_alone(aligner):
    generator = torch.Generator().manual_seed(0)
    image, point, text = (
        torch.randn(n, *shape, generator=generator) for n, shape in ((9, (1, 5)), (9, (2, 7)), (6, (3, 6)))
    )
    found = cross_modal_retrieval(aligner, "image", "point", image, point, anchors=("text", text), per_item=True)
    assert not found["paired"] and found["items"] == 9
    codes = [
        aligner.embed(name, x, None, 5).detach() for name, x in (("image", image), ("point", point), ("text", text))
    ]
    assert all((code[:, 5:] == 0).all() for code in codes)
    one, two = (anchor_profiles(code, codes[2], aligner.config.temperature) for code in codes[:2])
    assert found["ranks"] == retrieval_ranks(one, two).tolist()
    direct = cross_modal_retrieval(aligner, "image", "point", image, point, per_item=True)
    assert direct["ranks"] == retrieval_ranks(*codes[:2]).tolist() != found["ranks"]
    again = cross_modal_retrieval(
        aligner, "image", "point", image, point, anchors=("text", text.flip(0)), per_item=True
    )
    assert again["ranks"] == found["ranks"]  # the order of the anchors says nothing
    with pytest.raises(KeyError, match="no modality 'touch'"):
        cross_modal_retrieval(aligner, "image", "point", image, point, anchors=("touch", text))
