"""The functions of AnisoAlign against their formulas, written out naively in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_modalbridge.functional.aniso_bound import (
    block_move_bound,
    cosine_change_bound,
    paper_cosine_change_bound,
)
from hf_modalbridge.functional.block_polar import (
    block_cartesian,
    block_directions,
    block_polar,
    quantile_knots,
    radial_transfer,
)
from hf_modalbridge.functional.frame import orthogonal_complement, pair_columns, residual_frame
from hf_modalbridge.functional.phase_graph import (
    PhaseSums,
    phase_graph,
    phase_loss,
    phase_potential,
    potential_gradient,
)
from hf_modalbridge.functional.wrapped_gaussian import wrap, wrapped_log_density, wrapped_score

M, P = 7, 2


@pytest.fixture(scope="module")
def blocks() -> torch.Tensor:
    """Coordinates `(n, 2 m)` whose phases depend on each other."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(400, 1, generator=generator, dtype=torch.float64)
    theta = common * torch.linspace(0.2, 1, M) + 0.4 * torch.randn(400, M, generator=generator, dtype=torch.float64)
    rho = torch.rand(400, M, generator=generator, dtype=torch.float64) + 0.1
    return block_cartesian(rho, theta)


@pytest.fixture(scope="module")
def graph(blocks):
    return phase_graph(PhaseSums.of(*block_directions(blocks)), P)


def test_the_frame_holds_the_top_eigenvectors_of_both_covariances():
    rng = np.random.default_rng(0)
    a, b = (np.cov(rng.normal(size=(9, 60)) * np.arange(1, 10)[:, None]) for _ in range(2))
    frame, values = residual_frame(torch.from_numpy(a), torch.from_numpy(b), 4, ridge=0.01)
    sigma = a + b + 0.01 * np.trace(a + b) / 9 * np.eye(9)
    for column, value in zip(frame.T.numpy(), values.numpy(), strict=False):
        assert np.abs(sigma @ column - value * column).max() < 1e-9
    assert np.allclose(values.numpy(), np.sort(np.linalg.eigvalsh(sigma))[::-1])
    assert torch.equal(frame, residual_frame(torch.from_numpy(a), torch.from_numpy(b), 4, ridge=0.01)[0])
    assert np.abs((frame.T @ frame).numpy() - np.eye(4)).max() < 1e-12 and frame.dtype == torch.float64
    row = torch.randn(3, 9, dtype=torch.float64)
    assert (orthogonal_complement(row, frame) @ frame).abs().max() < 1e-12
    assert residual_frame(torch.eye(3), torch.eye(3), 0)[0].shape == (3, 0)
    with pytest.raises(ValueError, match=r"within 0..9.*12"):
        residual_frame(torch.from_numpy(a), torch.from_numpy(b), 12)


def test_neighbouring_columns_make_a_block():
    assert pair_columns(torch.arange(6.0)[None]).tolist() == [[0, 2, 4, 1, 3, 5]]


def test_polar_coordinates_and_back(blocks):
    rho, theta = block_polar(blocks)
    for k in range(M):
        a, b = blocks[5, k].item(), blocks[5, M + k].item()
        assert rho[5, k].item() == pytest.approx(math.hypot(a, b), abs=1e-11)
        assert theta[5, k].item() == pytest.approx(math.atan2(b, a))
    assert (block_cartesian(rho, theta) - blocks).abs().max() < 1e-10
    same, cosine, sine = block_directions(blocks)
    assert torch.equal(same, rho) and (torch.atan2(sine, cosine) - theta).abs().max() < 1e-10


def test_radii_are_mapped_by_quantiles():
    generator = torch.Generator().manual_seed(1)
    source = torch.rand(999, 2, generator=generator, dtype=torch.float64)
    target = torch.rand(700, 2, generator=generator, dtype=torch.float64).square() + 2
    knots = quantile_knots(source, 51), quantile_knots(target, 51)
    levels = np.linspace(0, 1, 51)
    for side, found in ((source, knots[0]), (target, knots[1])):
        assert np.allclose(found.numpy(), np.quantile(side.numpy(), levels, axis=0).T)
    moved = radial_transfer(source, *knots)
    for k in range(2):
        expected = np.interp(source[:, k].numpy(), knots[0][k].numpy(), knots[1][k].numpy())
        assert np.allclose(moved[:, k].numpy(), expected)
    tails = radial_transfer(torch.tensor([[-1.0, 9.0]], dtype=torch.float64), *knots)
    assert tails.tolist() == [[knots[1][0, 0].item(), knots[1][1, -1].item()]], "clamped to the outer knots"
    same = radial_transfer(source, knots[0], knots[0])
    assert (same - source).abs().max() < 1e-12
    flat = torch.ones(1, 5, dtype=torch.float64)
    assert radial_transfer(torch.ones(3, 1, dtype=torch.float64), flat, 2 * flat).tolist() == [[2.0]] * 3
    with pytest.raises(ValueError, match="2 knots"):
        quantile_knots(source, 1)


def test_wrap():
    angles = torch.tensor([0.0, math.pi + 0.1, -math.pi - 0.1, 9 * math.pi + 0.2, 100.0], dtype=torch.float64)
    wrapped = wrap(angles)
    assert ((wrapped >= -math.pi) & (wrapped < math.pi)).all()
    assert (torch.exp(1j * wrapped) - torch.exp(1j * angles)).abs().max() < 1e-12


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0])
def test_wrapped_gaussian(sigma):
    variance = 2 * sigma**2
    grid = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)
    density = wrapped_log_density(grid, variance).exp()
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-8), "integrates to one"
    naive = sum(
        np.exp(-((grid.numpy() + 2 * np.pi * n) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        for n in range(-9, 10)
    )
    assert np.allclose(density.numpy(), naive, rtol=1e-9, atol=1e-300)
    points, step = torch.linspace(-3.1, 3.1, 401, dtype=torch.float64), 1e-6
    log = lambda x: wrapped_log_density(x, variance)  # noqa: E731
    numerical = (log(points + step) - log(points - step)) / (2 * step)
    score = wrapped_score(points, variance)
    assert ((score - numerical).abs() / score.abs().clamp_min(1)).max() < 1e-5
    assert (wrapped_score(points + 4 * math.pi, variance) - score).abs().max() < 1e-9, "periodic"
    near = torch.tensor([0.01], dtype=torch.float64)
    if sigma == 0.05:
        assert wrapped_score(near, variance).item() == pytest.approx(-0.01 / variance), "Gaussian at small sigma"


def test_the_graph_by_hand(blocks, graph):
    rho, theta = (t.numpy() for t in block_polar(blocks))
    m = np.array([[np.mean(np.exp(1j * (theta[:, k] - theta[:, l]))) for l in range(M)] for k in range(M)])  # noqa: E741
    edges = set()
    for k in range(M):
        others = [l for l in range(M) if l != k]  # noqa: E741
        for l in sorted(others, key=lambda l: -abs(m[k, l]))[:P]:  # noqa: E741
            edges.add((min(k, l), max(k, l)))
    assert set(zip(*(e.tolist() for e in graph.edges), strict=True)) == edges
    for k, l in edges:  # noqa: E741
        assert graph.weight[k, l].item() == pytest.approx(abs(m[k, l]))
        assert graph.offset[k, l].item() == pytest.approx(np.angle(m[k, l]))
    assert torch.equal(graph.weight, graph.weight.T) and torch.equal(graph.offset, -graph.offset.T)
    assert np.allclose(graph.psi.numpy(), np.angle(np.exp(1j * theta).mean(0)))
    energy = (rho**2).mean(0)
    assert np.allclose(graph.alpha.numpy(), energy / (energy.sum() + 1e-6))


def test_sums_over_parts_add_up(blocks):
    whole = PhaseSums.of(*block_directions(blocks))
    parts = PhaseSums.of(*block_directions(blocks[:150])).add(PhaseSums.of(*block_directions(blocks[150:])))
    assert whole.count == parts.count == 400
    for name, value in vars(whole).items():
        assert torch.allclose(torch.as_tensor(getattr(parts, name)), torch.as_tensor(value)), name


def test_potential_and_drift(graph):
    phi = (torch.rand(5, M, dtype=torch.float64) * 6 - 3).requires_grad_()
    psi, alpha, a, eta = (t.numpy() for t in (graph.psi, graph.alpha, graph.weight, graph.offset))
    edges = list(zip(*(e.tolist() for e in graph.edges), strict=True))
    for row, found in zip(phi.detach().numpy(), phase_potential(phi, graph), strict=True):
        naive = sum(alpha[k] * (1 - math.cos(row[k] - psi[k])) for k in range(M))
        naive += sum(a[e] * (1 - math.cos(row[e[0]] - row[e[1]] - eta[e])) for e in edges)
        assert found.item() == pytest.approx(naive)
    (automatic,) = torch.autograd.grad(phase_potential(phi, graph).sum(), phi)
    assert (potential_gradient(phi, graph) - automatic).abs().max() < 1e-12
    assert automatic.abs().max() > 0.1


def test_phase_loss_by_hand(blocks, graph):
    rho, theta0 = block_polar(blocks[:20])
    theta = theta0 + 0.3 * torch.randn(20, M, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    edges = list(zip(*(e.tolist() for e in graph.edges), strict=True))
    total = 0.0
    for r, t, s in zip(rho.tolist(), theta.tolist(), theta0.tolist(), strict=True):
        norm = sum(r[u] * r[v] for u, v in edges) + 1e-6
        total += sum(
            r[k] * r[l] / norm * (1 - math.cos((t[k] - t[l]) - (s[k] - s[l])))
            for k, l in edges  # noqa: E741
        )
    assert phase_loss(theta, theta0, rho, graph.edges).item() == pytest.approx(total / 20 / len(edges))
    assert phase_loss(theta0 + 0.7, theta0, rho, graph.edges).item() == pytest.approx(0, abs=1e-12), "a common turn"
    none = torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    assert phase_loss(theta, theta0, rho, none).item() == 0


def test_a_single_block_has_no_edges():
    c = torch.randn(30, 2, dtype=torch.float64)
    graph = phase_graph(PhaseSums.of(*block_directions(c)), 4)
    assert not len(graph.edges[0]) and potential_gradient(c[:, :1], graph).shape == (30, 1)


def test_kappa_is_the_largest_relative_move_of_a_block():
    a_theta, a_rho = 0.2, 0.15
    kappa = block_move_bound(a_theta, a_rho)
    assert kappa == pytest.approx(0.269, abs=5e-4), "the paper's example"
    grid = np.linspace(-1, 1, 201)
    moves = np.abs(np.exp(a_rho * grid)[:, None] * np.exp(1j * a_theta * grid)[None] - 1)
    assert moves.max() == pytest.approx(kappa, rel=1e-12)


def test_cosine_bounds_hold_and_ours_is_nearly_reached():
    generator = torch.Generator().manual_seed(3)
    for epsilon in (0.05, 0.3, 0.9):
        a, b = torch.randn(2, 20_000, 3, generator=generator, dtype=torch.float64)
        steps = torch.randn(2, 20_000, 3, generator=generator, dtype=torch.float64)
        steps = steps / steps.norm(dim=-1, keepdim=True) * epsilon
        moved = [x + s * x.norm(dim=-1, keepdim=True) for x, s in zip((a, b), steps, strict=True)]
        cosine = torch.nn.functional.cosine_similarity
        change = (cosine(*moved) - cosine(a, b)).abs().max()
        bound = cosine_change_bound(torch.tensor(epsilon))
        assert 0.8 * bound < change <= bound <= paper_cosine_change_bound(torch.tensor(epsilon))
