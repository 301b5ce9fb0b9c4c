"""Operators on point clouds in plain PyTorch: order, sampling, neighbours, grouping, scale, Chamfer distance.

A batch is `(batch, points, channels)` with a mask `(batch, points)` that is True for real points; None means all.
Coordinates are the first three channels. Distances are summed coordinate by coordinate, so that a cloud gives the same
numbers alone and in a padded batch, and ties go to the point that comes first: after `canonical_order` nothing depends
on the order in which the points came. Nothing here waits for a device or reads a tensor's value in Python.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "ball_query",
    "canonical_order",
    "chamfer_distance",
    "farthest_point_sample",
    "gather_points",
    "nearest_neighbors",
    "subsample_points",
    "unit_sphere",
]

_MAX_ELEMENTS = 1 << 20  # distances held at a time: 4 MiB in float32, 8 MiB as keys, which a cache still holds


def canonical_order(points: Tensor, mask: Tensor | None = None) -> Tensor:
    """Order points by x, then y, then z, then any further channels; padding goes to the end.

    Args:
        points: `(batch, points, channels)`.
        mask: `(batch, points)`, True for real points; None if all are.

    Returns:
        Indices `(batch, points)` for `gather_points`.
    """
    order = torch.arange(points.shape[1], device=points.device).expand(points.shape[:2])
    keys = [points[..., channel] for channel in range(points.shape[2] - 1, -1, -1)]
    for key in keys if mask is None else [*keys, (~mask).to(torch.uint8)]:
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    return order


def gather_points(points: Tensor, index: Tensor) -> Tensor:
    """Pick points by index in each cloud.

    Args:
        points: `(batch, points, channels)`.
        index: `(batch, ...)` int64.

    Returns:
        `(batch, ..., channels)`.
    """
    batch, _, channels = points.shape
    flat = index.reshape(batch, -1, 1).expand(-1, -1, channels)
    return points.gather(1, flat).view(*index.shape, channels)


@torch.no_grad()
def farthest_point_sample(points: Tensor, num_samples: int, mask: Tensor | None = None) -> Tensor:
    """Pick points one by one, each the farthest from all that were picked (Qi et al., 2017, arXiv:1706.02413, 3.2).

    The first is the point farthest from the centroid, so the choice belongs to the cloud and not to the order of its
    points. A cloud with fewer points than `num_samples` gives all of them and then the same ones over again.

    Args:
        points: `(batch, points, 3 or more)`; float16 and bfloat16 are computed in float32.
        num_samples: How many.
        mask: `(batch, points)`, True for real points (at least one a cloud); None if all are.

    Returns:
        Indices `(batch, num_samples)` int64.
    """
    points = _coordinates(points)
    batch, size, _ = points.shape
    axes = [points[..., axis].contiguous() for axis in range(3)]  # (B, N) each: one axis after the other is faster
    if mask is None:
        centroid = points.mean(1, keepdim=True)
    else:
        kept = mask[..., None].to(points.dtype)
        centroid = (points * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True)
    nearest = _squared_distances(centroid, points)[:, 0]  # (B, N)
    if mask is not None:
        nearest = nearest.masked_fill(~mask, -1.0)  # below every distance: never the farthest
    last = nearest.argmax(1, keepdim=True)
    nearest = torch.full_like(nearest, torch.inf) if mask is None else torch.where(mask, torch.inf, -1.0).to(nearest)
    # one tensor for all picks: small ones kept in a list would lie in the holes that the large ones leave, and the heap
    # would grow by a row of distances a step
    picked = last.repeat(1, min(num_samples, size))
    for step in range(1, picked.shape[1]):
        distance = torch.zeros_like(nearest)
        for axis in axes:
            offset = axis - axis.gather(1, last)
            distance += offset.mul_(offset)
        nearest = torch.minimum(nearest, distance)
        last = nearest.argmax(1, keepdim=True)
        picked[:, step : step + 1] = last
    return _cycle(picked, num_samples, mask)


@torch.no_grad()
def nearest_neighbors(
    queries: Tensor, points: Tensor, k: int, mask: Tensor | None = None, max_elements: int = _MAX_ELEMENTS
) -> Tensor:
    """Find the k nearest points of each query, nearest first, ties by index.

    Args:
        queries: `(batch, queries, 3)`.
        points: `(batch, points, 3 or more)`.
        k: How many; a cloud with fewer points gives all of them and then the same ones over again.
        mask: `(batch, points)`, True for real points (at least one a cloud); None if all are.
        max_elements: Distances held at a time; queries are taken in parts of that size.

    Returns:
        Indices `(batch, queries, k)` int64.
    """
    queries, points = _coordinates(queries), _coordinates(points)
    part = max(1, max_elements // max(1, points.shape[0] * points.shape[1]))
    # filled in place, as the picks above, lest the heap grow by a part's distances with each part
    found = torch.empty(*queries.shape[:2], min(k, points.shape[1]), dtype=torch.int64, device=points.device)
    for start in range(0, queries.shape[1], part):
        distance = _squared_distances(queries[:, start : start + part], points)  # (B, part, N)
        if mask is not None:
            distance = distance.masked_fill(~mask[:, None], torch.inf)
        found[:, start : start + part] = _smallest(distance, found.shape[2])
    return _cycle(found, k, mask)


@torch.no_grad()
def ball_query(
    queries: Tensor,
    points: Tensor,
    radius: float,
    k: int,
    mask: Tensor | None = None,
    max_elements: int = _MAX_ELEMENTS,
) -> Tensor:
    """Find up to k points within a radius of each query, nearest first.

    Args:
        queries: `(batch, queries, 3)`.
        points: `(batch, points, 3 or more)`.
        radius: In the points' unit; the border belongs to the ball.
        k: How many at most.
        mask: `(batch, points)`, True for real points; None if all are.
        max_elements: Distances held at a time.

    Returns:
        Indices `(batch, queries, k)` int64. Places beyond the ball repeat the nearest point, which is also what a
        query with an empty ball gets.
    """
    index = nearest_neighbors(queries, points, k, mask, max_elements)
    offset = gather_points(_coordinates(points), index) - _coordinates(queries)[:, :, None]
    inside = _sum_axes(offset) <= radius * radius
    return torch.where(inside, index, index[..., :1])


def unit_sphere(
    points: Tensor, mask: Tensor | None = None, center: Literal["box", "mean"] = "box"
) -> tuple[Tensor, Tensor, Tensor]:
    """Move a cloud's centre to the origin and its farthest point to distance 1.

    Args:
        points: `(batch, points, 3)`.
        mask: `(batch, points)`, True for real points; None if all are. Padding comes out as zeros.
        center: "box" for the middle of the bounding box, which does not depend on how densely each part was
            scanned; "mean" for the centroid.

    Returns:
        The points `(batch, points, 3)`, the centre `(batch, 1, 3)` and the scale `(batch, 1, 1)`, so that
        `points * scale + center` is the cloud that came. A cloud without extent keeps the scale 1.

    Raises:
        ValueError: If `center` is neither.
    """
    if center not in ("box", "mean"):
        raise ValueError(f"unit_sphere got center={center!r}; expected 'box' or 'mean'.")
    keep = torch.ones_like(points[..., :1], dtype=torch.bool) if mask is None else mask[..., None]
    if center == "box":
        low = points.masked_fill(~keep, torch.inf).amin(1, keepdim=True)
        high = points.masked_fill(~keep, -torch.inf).amax(1, keepdim=True)
        middle = low + (high - low) / 2
    else:
        middle = (points * keep).sum(1, keepdim=True) / keep.sum(1, keepdim=True)
    moved = (points - middle).masked_fill(~keep, 0.0)
    scale = torch.linalg.vector_norm(moved, dim=-1).amax(1)[:, None, None]
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return moved / scale, middle, scale


def subsample_points(points: Tensor, num_points: int, seed: int = 0) -> Tensor:
    """Choose a fixed random part of one cloud, the same whatever order and unit its points come in.

    The points are put into `canonical_order`, shuffled by a seeded permutation, and the first ones are taken: every
    point is as likely as any other, so a dense part of a scan stays dense. The cost is that of three sorts: 0.6 s for a
    million points on one core.

    Args:
        points: `(points, channels)`.
        num_points: How many to keep; a smaller cloud is kept whole.
        seed: Seed of the permutation.

    Returns:
        Indices `(min(points, num_points),)` int64, in canonical order.
    """
    order = canonical_order(points[None])[0]
    if len(points) <= num_points:
        return order
    permutation = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
    return order[permutation[:num_points].sort().values.to(order.device)]


def chamfer_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distance from each point to the nearest of the other cloud, both directions added.

    Fan et al., 2017 (arXiv:1612.00603), equation 2, with means for sums. Memory grows with the product of the sizes: it
    is made for patches, not for whole scans.

    Args:
        a: `(batch, n, 3)`.
        b: `(batch, m, 3)`.

    Returns:
        `(batch,)`, differentiable in both.
    """
    with torch.no_grad():
        distance = _squared_distances(_coordinates(a), _coordinates(b))  # (B, n, m)
        to_b, to_a = distance.argmin(2), distance.argmin(1)
    forth = (a - gather_points(b, to_b)).square().sum(-1).mean(1)
    back = (b - gather_points(a, to_a)).square().sum(-1).mean(1)
    return forth + back


def _coordinates(points: Tensor) -> Tensor:
    """First three channels, in float32 at least: bfloat16 has two digits, which is no place to compare distances in."""
    return points[..., :3].to(torch.promote_types(points.dtype, torch.float32))


def _sum_axes(offset: Tensor) -> Tensor:
    """Squared length of `(..., 3)`, the axes in one order: a reduction's order may depend on the tensor's shape."""
    x, y, z = offset.unbind(-1)
    return x * x + y * y + z * z


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """`(batch, n, 3)` and `(batch, m, 3)` to `(batch, n, m)`; no matrix product, whose rounding depends on its size."""
    total: Tensor | None = None
    for axis in range(3):
        offset = a[:, :, None, axis] - b[:, None, :, axis]
        total = offset * offset if total is None else total + offset * offset
    assert total is not None
    return total


def _smallest(distance: Tensor, k: int) -> Tensor:
    """Indices of the k smallest of the last axis, in order, ties by index; `topk` alone breaks ties as it likes."""
    if distance.dtype != torch.float32:
        return distance.argsort(dim=-1, stable=True)[..., :k]
    # the bits of floats that are not negative order as integers; the index below them makes every key unique
    place = torch.arange(distance.shape[-1], device=distance.device)
    key = (distance.contiguous().view(torch.int32).to(torch.int64) << 32) | place
    return key.topk(k, dim=-1, largest=False, sorted=True).values & 0xFFFFFFFF


def _cycle(index: Tensor, size: int, mask: Tensor | None) -> Tensor:
    """Widen or repeat the last axis to `size`: place i takes what stands at i modulo the number of real points."""
    have = index.shape[-1]
    place = torch.arange(size, device=index.device)
    if mask is None:
        return index if size == have else index[..., place % have]
    count = mask.sum(1).clamp(1, have).view(-1, *[1] * (index.ndim - 1))
    return index.gather(-1, (place % count).expand(*index.shape[:-1], size))
