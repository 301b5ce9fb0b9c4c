"""The point operators give what loops over single points in float64 give."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_modalbridge.functional.points import (
    ball_query,
    canonical_order,
    chamfer_distance,
    farthest_point_sample,
    gather_points,
    nearest_neighbors,
    subsample_points,
    unit_sphere,
)


def cloud(size: int, seed: int = 0, batch: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(batch, size, 3)))


def naive_distance(a, b) -> float:
    return sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))


def naive_fps(points, count: int) -> list[int]:
    center = [sum(float(p[axis]) for p in points) / len(points) for axis in range(3)]
    first = max(range(len(points)), key=lambda i: (naive_distance(points[i], center), -i))
    picked = [first]
    while len(picked) < min(count, len(points)):
        nearest = [min(naive_distance(p, points[j]) for j in picked) for p in points]
        picked.append(max(range(len(points)), key=lambda i: (nearest[i], -i)))
    return [picked[i % len(picked)] for i in range(count)]


def naive_knn(query, points, k: int) -> list[int]:
    order = sorted(range(len(points)), key=lambda i: (naive_distance(query, points[i]), i))
    return [order[i % len(order)] for i in range(k)]


def pad(clouds: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Clouds of different sizes in one batch; the padding is far out, where it would do harm if it counted."""
    size = max(len(c) for c in clouds)
    values = torch.full((len(clouds), size, 3), 1e3, dtype=clouds[0].dtype)
    mask = torch.zeros(len(clouds), size, dtype=torch.bool)
    for row, (c, place) in enumerate(zip(clouds, mask, strict=True)):
        values[row, : len(c)] = c
        place[: len(c)] = True
    return values, mask


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_farthest_points_equal_the_loops(dtype):
    clouds = [cloud(size, seed)[0].to(dtype) for seed, size in enumerate((40, 17, 5))]
    values, mask = pad(clouds)
    index = farthest_point_sample(values, 20, mask)
    for row, c in zip(index, clouds, strict=True):
        assert row.tolist() == naive_fps(c.double().tolist(), 20)
    assert torch.equal(farthest_point_sample(clouds[0][None], 20)[0], index[0]), "no mask: the same"


def test_farthest_points_start_at_the_point_farthest_from_the_centroid():
    points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [-5, 0, 0], [0, 1, 0]]])
    assert farthest_point_sample(points, 2)[0].tolist() == [2, 1]


@pytest.mark.parametrize("k", [1, 6, 30])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_neighbors_equal_the_loops(k, dtype):
    clouds = [cloud(size, seed)[0].to(dtype) for seed, size in enumerate((25, 9))]
    values, mask = pad(clouds)
    queries = cloud(7, 9, batch=2).to(dtype)
    index = nearest_neighbors(queries, values, k, mask)
    for row, c, asked in zip(index, clouds, queries, strict=True):
        for found, query in zip(row, asked, strict=True):
            assert found.tolist() == naive_knn(query, c, k)
    for part in (1, 60, 10_000):
        assert torch.equal(nearest_neighbors(queries, values, k, mask, max_elements=part), index), (
            "parts change nothing"
        )


def test_neighbors_break_ties_by_index():
    grid = torch.stack(torch.meshgrid(*[torch.arange(6.0)] * 3, indexing="ij"), -1).view(1, -1, 3)
    index = nearest_neighbors(grid[:, 100:110], grid, 12)
    for found, query in zip(index[0], grid[0, 100:110], strict=True):
        assert found.tolist() == naive_knn(query, grid[0], 12)


def test_ball_query_equals_the_loops():
    points, queries = cloud(60), torch.cat([cloud(5, 3), torch.full((1, 1, 3), 50.0, dtype=torch.float64)], 1)
    index = ball_query(queries, points, radius=0.9, k=8)
    for found, query in zip(index[0], queries[0], strict=True):
        order = naive_knn(query, points[0], 60)
        inside = [i for i in order if naive_distance(query, points[0, i]) <= 0.81][:8] or order[:1]
        assert found.tolist() == inside + [order[0]] * (8 - len(inside))


def test_canonical_order_sorts_all_channels_and_puts_padding_last():
    rows = torch.tensor([[[1.0, 0, 0, 2], [1, 0, 0, 1], [0, 5, 0, 0], [-9, 0, 0, 0], [0, 4, 9, 0]]])
    mask = torch.tensor([[True, True, True, False, True]])
    assert canonical_order(rows, mask)[0].tolist() == [4, 2, 1, 0, 3]


def test_gather_takes_nested_indices():
    points = cloud(10, batch=2)
    index = torch.randint(0, 10, (2, 3, 4))
    out = gather_points(points, index)
    assert out.shape == (2, 3, 4, 3)
    assert torch.equal(out[1, 2, 3], points[1, index[1, 2, 3]])


@pytest.mark.parametrize("center", ["box", "mean"])
def test_unit_sphere_normalises_and_can_be_undone(center):
    clouds = [cloud(30)[0] * 40 + 7, cloud(12, 1)[0]]
    values, mask = pad(clouds)
    out, middle, scale = unit_sphere(values, mask, center)
    for row, c in enumerate(clouds):
        want = c - ((c.amax(0) + c.amin(0)) / 2 if center == "box" else c.mean(0))
        want = want / max(math.sqrt(naive_distance(p, [0, 0, 0])) for p in want)
        assert torch.allclose(out[row, : len(c)], want, atol=1e-12)
        assert not out[row, len(c) :].any()
    assert torch.allclose((out * scale + middle)[mask], values[mask])
    same, _, one = unit_sphere(torch.ones(1, 20, 3))
    assert not same.any() and one.item() == 1
    with pytest.raises(ValueError, match="middle"):
        unit_sphere(values, mask, "middle")


def test_subsample_does_not_depend_on_order_or_unit():
    points = cloud(5000)[0]
    shuffled = points[torch.randperm(5000, generator=torch.Generator().manual_seed(3))]
    kept = points[subsample_points(points, 100)]
    assert len(kept) == 100 == len(torch.unique(kept, dim=0))
    assert torch.equal(shuffled[subsample_points(shuffled, 100)], kept)
    assert torch.allclose((points * 1000)[subsample_points(points * 1000, 100)], kept * 1000)
    assert not torch.equal(points[subsample_points(points, 100, seed=1)], kept)
    assert len(subsample_points(points[:20], 100)) == 20
    # an even draw: a part that is dense stays so
    dense = torch.cat([points[:4000] * 0.01, points[4000:] + 10])
    assert 0.7 < (dense[subsample_points(dense, 400)] < 5).all(1).double().mean() < 0.9


def test_chamfer_equals_the_loops_and_has_its_gradient():
    a, b = cloud(6, 1).requires_grad_(), cloud(9, 2).requires_grad_()
    value = chamfer_distance(a, b)
    forth = sum(min(naive_distance(p, q) for q in b[0]) for p in a[0]) / 6
    back = sum(min(naive_distance(p, q) for p in a[0]) for q in b[0]) / 9
    assert value.item() == pytest.approx(forth + back, rel=1e-12)
    assert torch.autograd.gradcheck(chamfer_distance, (a, b))


def test_half_precision_is_compared_in_float32():
    points = (cloud(200) * 0.01 + 1).to(torch.bfloat16)
    want = farthest_point_sample(points.float(), 30)
    assert torch.equal(farthest_point_sample(points, 30), want)
    queries = points[:, :5]
    assert torch.equal(nearest_neighbors(queries, points, 4), nearest_neighbors(queries.float(), points.float(), 4))


def test_operators_have_no_graph_breaks():
    def group(points, mask):
        index = farthest_point_sample(points, 8, mask)
        return nearest_neighbors(gather_points(points, index), points, 4, mask)

    values, mask = pad([cloud(30)[0], cloud(20, 1)[0]])
    compiled = torch.compile(group, fullgraph=True, backend="eager")
    assert torch.equal(compiled(values, mask), group(values, mask))
