"""Contrastive losses against the formulas written out in float64 loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from hf_modalbridge.functional import contrastive as c


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x: torch.Tensor) -> list[list[float]]:
    return [[float(v) / math.sqrt(sum(float(w) ** 2 for w in row)) for v in row] for row in x]


def dot(a, b) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def log_softmax(values: list[float], i: int) -> float:
    return values[i] - math.log(sum(math.exp(v) for v in values))


def naive_info_nce(a, b, t, all_a=None, all_b=None, offset=0) -> float:
    a, b = unit(a), unit(b)
    all_a, all_b = (a if all_a is None else unit(all_a)), (b if all_b is None else unit(all_b))
    total = 0.0
    for i in range(len(a)):
        total -= log_softmax([dot(a[i], y) / t for y in all_b], i + offset)
        total -= log_softmax([dot(b[i], x) / t for x in all_a], i + offset)
    return total / (2 * len(a))


def test_info_nce_alone_and_with_gathered_rows():
    a, b = rows(5, 4), rows(5, 4, seed=1)
    assert float(c.info_nce_loss(a, b, 0.2)) == pytest.approx(naive_info_nce(a, b, 0.2), rel=1e-12)
    assert float(c.info_nce_loss(a, b, 0.2)) == pytest.approx(float(c.clip_loss(a, b, 5.0)), rel=1e-12)
    part = c.info_nce_loss(a[2:4], b[2:4], 0.2, all_a=a, all_b=b, offset=2)
    assert float(part) == pytest.approx(naive_info_nce(a[2:4], b[2:4], 0.2, a, b, 2), rel=1e-12)


def test_processes_average_to_the_joint_batch_in_loss_and_gradient():
    a, b = rows(6, 4).requires_grad_(), rows(6, 4, seed=1).requires_grad_()
    whole = torch.autograd.grad(c.info_nce_loss(a, b, 0.1), (a, b))
    parts = [c.info_nce_loss(a[i : i + 2], b[i : i + 2], 0.1, all_a=a, all_b=b, offset=i) for i in (0, 2, 4)]
    mean = torch.stack(parts).mean()
    torch.testing.assert_close(mean, c.info_nce_loss(a, b, 0.1))
    for x, y in zip(torch.autograd.grad(mean, (a, b)), whole, strict=True):
        torch.testing.assert_close(x, y)


def test_gathered_rows_that_do_not_hold_ones_own_are_refused():
    with pytest.raises(ValueError, match="begin at 4"):
        c.info_nce_loss(rows(2, 3), rows(2, 3), all_a=rows(5, 3), all_b=rows(5, 3), offset=4)


def test_cwcl():
    f, t, p = rows(4, 3), rows(4, 3, seed=1), rows(4, 7, seed=2).requires_grad_()
    u, v, q = unit(f), unit(t), unit(p.detach())
    total = 0.0
    for i in range(4):
        w = [dot(q[i], q[j]) / 2 + 0.5 for j in range(4)]
        logits = [dot(u[i], v[j]) / 0.3 for j in range(4)]
        total -= sum(w[j] * log_softmax(logits, j) for j in range(4)) / sum(w) / 4
        total -= log_softmax([dot(v[i], u[j]) / 0.3 for j in range(4)], i) / 4
    loss = c.cwcl_loss(f.requires_grad_(), t, p, 0.3)
    assert float(loss) == pytest.approx(total / 2, rel=1e-12)
    loss.backward()
    assert p.grad is None and f.grad is not None


def test_gram_volume_is_the_root_of_the_gram_determinant():
    a, x, y = rows(3, 5), rows(4, 5, seed=1), rows(4, 5, seed=2)
    found = c.gram_volume(a, [x, y])
    for i, j in itertools.product(range(3), range(4)):
        stack = torch.tensor(unit(torch.stack([a[i], x[j], y[j]])), dtype=torch.float64)
        assert float(found[i, j]) == pytest.approx(math.sqrt(abs(torch.linalg.det(stack @ stack.T).item())), abs=1e-7)
    two = c.gram_volume(a, [x])  # of two vectors: the sine of their angle
    cosine = torch.tensor(unit(a), dtype=torch.float64) @ torch.tensor(unit(x), dtype=torch.float64).T
    torch.testing.assert_close(two, (1 - cosine**2).sqrt(), atol=1e-7, rtol=1e-7)


def test_gram_loss_and_its_gradient_where_a_pair_agrees():
    a, x, y = rows(4, 5), rows(4, 5, seed=1), rows(4, 5, seed=2)
    volume = c.gram_volume(a, [x, y])
    total = 0.0
    for logits in (-volume / 0.1, -volume.T / 0.1):
        for i in range(4):
            values = logits[i].tolist()
            total -= 0.9 * log_softmax(values, i) + 0.1 * sum(log_softmax(values, j) for j in range(4)) / 4
    assert float(c.gram_loss(a, [x, y], 0.1)) == pytest.approx(total / 8, rel=1e-10)
    same = rows(3, 4).requires_grad_()
    c.gram_loss(same, [same * 2.0]).backward()
    assert torch.isfinite(same.grad).all()


@pytest.mark.parametrize("all_pairs", [True, False])
def test_symile(all_pairs):
    x, y, z = (rows(3, 4, seed=s) for s in range(3))
    mip = lambda i, j, k: sum(float(x[i, d] * y[j, d] * z[k, d]) for d in range(4))  # noqa: E731
    total = 0.0
    for i in range(3):
        for axis in range(3):
            if all_pairs:
                others = list(itertools.product(range(3), repeat=2))
            else:  # the other two shifted by one and two times the step
                others = [((i + s) % 3, (i + 2 * s) % 3) for s in range(3)]
            values = []
            for j, k in others:
                place = [j, k]
                place.insert(axis, i)
                values.append(0.7 * mip(*place))
            total -= log_softmax(values, others.index((i, i))) / 9
    assert float(c.symile_loss([x, y, z], 0.7, all_pairs=all_pairs)) == pytest.approx(total, rel=1e-10)


def test_uniformity_and_alignment():
    a, b = rows(4, 3), rows(4, 3, seed=1)
    u, v = unit(a), unit(b)
    d2 = lambda p, q: sum((x - y) ** 2 for x, y in zip(p, q, strict=True))  # noqa: E731
    within = [math.log(sum(math.exp(-2 * d2(p, q)) for p in s for q in s) / 4) for s in (u, v)]
    across = math.log(sum(math.exp(-2 * d2(u[j], v[k])) for j in range(4) for k in range(4) if j != k) / 4)
    alignment = sum(d2(p, q) for p, q in zip(u, v, strict=True)) / 4
    assert float(c.uniformity_loss(a)) == pytest.approx(within[0], rel=1e-10)
    assert float(c.uniformity_loss(a, b)) == pytest.approx(across, rel=1e-10)
    assert float(c.alignment_loss(a, b)) == pytest.approx(alignment, rel=1e-10)
    expected = naive_info_nce(a, b, 0.05) + sum(within) / 2 + alignment
    assert float(c.uniformity_alignment_loss(a, b, 0.05)) == pytest.approx(expected, rel=1e-10)
    crossed = c.uniformity_alignment_loss(a, b, 0.05, cross=True)
    assert float(crossed) == pytest.approx(expected + across, rel=1e-10)


def test_temperatures():
    assert [c.scheduled_temperature(p) for p in (-1, 0, 0.5, 1, 2)] == pytest.approx([0.01, 0.01, 0.03, 0.05, 0.05])
    nu = torch.tensor(c.inverse_softplus(0.07), dtype=torch.float64, requires_grad=True)
    found = c.softplus_temperature(nu)
    assert float(found) == pytest.approx(0.07) == pytest.approx(1 / math.log1p(math.exp(float(nu))), rel=1e-6)
    found.backward()
    assert float(nu.grad) < 0
    assert float(c.softplus_temperature(torch.tensor(1000.0))) == pytest.approx(0.01)


@pytest.mark.parametrize(
    "call",
    [
        lambda: c.info_nce_loss(rows(3, 2), rows(4, 2)),
        lambda: c.cwcl_loss(rows(3, 2), rows(3, 2), rows(4, 2)),
        lambda: c.gram_loss(rows(3, 2), []),
        lambda: c.symile_loss([rows(3, 2), rows(3, 3)]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call):
    with pytest.raises(ValueError, match=r"shape|reference"):
        call()
