from __future__ import annotations

import pytest
import torch

from hf_modalbridge.functional import (
    Moments,
    centroid_gap,
    check_rows,
    clip_loss,
    normalize_rows,
    normalized_affine,
    normalized_affine_sum,
    recall_at_k,
    unit_rows_sum,
)


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_normalize_rows_keeps_directions():
    x = gaussian(5, 7) * 30
    unit = normalize_rows(x)
    assert torch.allclose(unit.norm(dim=1), torch.ones(5, dtype=torch.float64))
    assert torch.allclose(unit * x.norm(dim=1, keepdim=True), x)
    assert torch.equal(normalize_rows(torch.zeros(1, 3)), torch.zeros(1, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_check_rows_names_the_first_bad_rows(dtype):
    x = gaussian(9, 4).to(dtype)
    check_rows(x)
    x[[2, 5], 1] = float("nan")
    with pytest.raises(ValueError, match="2 of 9 rows of the texts hold non-finite.*row 2, 5"):
        check_rows(x, what="texts")
    with pytest.raises(ValueError, match="id c, f"):
        check_rows(x, ids="abcdefghi")
    x[2:] = 0
    with pytest.raises(ValueError, match="7 of 9 rows.*only zeros: row 2, 3, 4, 5, 6 and 2 more"):
        check_rows(x)


def test_a_row_too_long_for_float32_is_no_row():
    with pytest.raises(ValueError, match="too large"):
        check_rows(torch.full((2, 4), 3e38))


def test_centroid_gap_is_a_distance():
    assert centroid_gap(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])) == pytest.approx(5)


def test_recall_against_the_full_ranking():
    queries, keys = gaussian(40, 6), gaussian(55, 6, seed=1)
    keys[:40] += queries
    similarity = normalize_rows(queries) @ normalize_rows(keys).T
    order = similarity.argsort(1, descending=True)
    got = recall_at_k(queries, keys, ks=(1, 3, 10), batch_size=7)
    for k, share in got.items():
        expected = sum(i in order[i, :k].tolist() for i in range(40)) / 40
        assert share == pytest.approx(expected)
    assert 0 < got[1] < got[10]


def test_recall_of_constant_embeddings_is_zero():
    assert recall_at_k(torch.ones(4, 3), torch.ones(4, 3), ks=(1,)) == {1: 0.0}
    with pytest.raises(ValueError, match="m >= n"):
        recall_at_k(torch.ones(4, 3), torch.ones(3, 3))


def test_clip_loss_written_out():
    image, text = gaussian(6, 5), gaussian(6, 5, seed=1)
    a, b = image / image.norm(dim=1, keepdim=True), text / text.norm(dim=1, keepdim=True)
    loss = 0.0
    for i in range(6):
        row = torch.stack([7 * a[i] @ b[j] for j in range(6)])
        column = torch.stack([7 * a[j] @ b[i] for j in range(6)])
        loss -= (row[i] - row.logsumexp(0) + column[i] - column.logsumexp(0)) / 12
    assert clip_loss(image, text, 7.0).item() == pytest.approx(float(loss), rel=1e-12)
    with pytest.raises(ValueError, match="one shape"):
        clip_loss(image, text[:5], 1.0)


def test_moments_are_mean_and_mean_squared_deviation():
    x = gaussian(50, 4) * 3 + 100
    moments = Moments.of(x)
    assert torch.allclose(moments.mean, x.mean(0), atol=0, rtol=1e-14)
    assert moments.trace == pytest.approx(float(x.var(0, correction=0).sum()), rel=1e-12)


def test_moments_of_uneven_parts_merge_exactly_in_any_order():
    x = gaussian(1000, 16) * torch.logspace(-3, 1, 16, dtype=torch.float64) + 5
    whole = Moments.of(x)
    parts = [Moments.of(part) for part in x.split([1, 399, 7, 0, 350, 200, 43])]
    for order in (parts, parts[::-1]):
        merged = Moments.empty(16)
        for part in order:
            merged = merged.merge(part)
        assert merged.count == 1000
        assert (merged.mean - whole.mean).abs().max() < 1e-12
        assert abs(merged.trace - whole.trace) < 1e-12 * whole.trace
    updated = Moments.empty(16)
    for part in x.split(64):
        updated.update(part)
    assert (updated.mean - whole.mean).abs().max() < 1e-12
    with pytest.raises(ValueError, match="16 and 8"):
        whole.merge(Moments.empty(8))


def test_sums_without_the_rows_equal_sums_of_the_rows():
    y, shift = gaussian(30, 9) * 4, gaussian(9, seed=1) * 0.3
    assert torch.allclose(unit_rows_sum(y), normalize_rows(y).sum(0), rtol=0, atol=1e-13)
    expected = normalized_affine(y, 0.7, shift).sum(0)
    assert torch.allclose(normalized_affine_sum(y, 0.7, shift), expected, rtol=0, atol=1e-13)
    unit = normalize_rows(y)
    moments = Moments.of_unit_sum(unit_rows_sum(y), 30)
    assert moments.trace == pytest.approx(Moments.of(unit).trace, rel=1e-12), "trace = 1 - ||mean||^2"
