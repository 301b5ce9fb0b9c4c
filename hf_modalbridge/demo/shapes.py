"""A seeded generator of parametric, furniture-like shapes as point clouds: training data that anyone may have.

Every shape is a set of parts, each a parametric surface sampled with points in proportion to its area:

- box: a cuboid's six faces;
- lathe: a profile r(t), t in [0, 1], turned about the y axis, with end discs; cylinders, cones, frusta, vases,
  bowls and lamp shades are profiles;
- superquadric (Barr, 1981): x = a cos^e1(v) cos^e2(u), y = b sin^e1(v), z = c cos^e1(v) sin^e2(u), with the signed
  power; e from 0.2 (box-like) over 1 (ellipsoid) to 2 (octahedral);
- torus and bent tube: a circle swept along a circle or an arc.

A recipe (table, chair, shelf, cabinet, bed, sofa, lamp, vessel, door, stairs, wheeled box, or a free composition)
draws the parts' sizes. Shapes come out as the demo's clouds are: x right, y up, z depth, the bounding box's middle in
the origin, the farthest point at distance 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["SHAPE_KINDS", "generate_shape"]

Part = tuple[float, Callable[[np.random.Generator, int], np.ndarray]]  # area, sampler of that many points


def _box(size: tuple[float, float, float], at: tuple[float, float, float]) -> Part:
    """A cuboid of a size, the middle of its bottom at a place."""
    w, h, d = size
    areas = np.array([h * d, h * d, w * d, w * d, w * h, w * h])

    def sample(rng: np.random.Generator, count: int) -> np.ndarray:
        face = rng.choice(6, count, p=areas / areas.sum())
        points = rng.random((count, 3))
        points[np.arange(count), face // 2] = face % 2
        return (points - (0.5, 0.0, 0.5)) * size + at

    return float(areas.sum()), sample


def _lathe(profile: np.ndarray, height: float, at: tuple[float, float, float], open_top: bool = False) -> Part:
    """A profile of radii from bottom to top, turned about the y axis, its bottom at a place."""
    radii = np.concatenate([[0.0], profile, [] if open_top else [0.0]])  # the discs are steps to radius 0
    heights = np.concatenate([[0.0], np.linspace(0, height, len(profile)), [] if open_top else [height]])
    lengths = np.hypot(np.diff(radii), np.diff(heights))
    areas = np.pi * (radii[1:] + radii[:-1]) * lengths

    def sample(rng: np.random.Generator, count: int) -> np.ndarray:
        ring = rng.choice(len(areas), count, p=areas / areas.sum())
        low, high = radii[ring], radii[ring + 1]
        # area grows with the radius along a cone's side: invert its distribution
        u = rng.random(count)
        radius = np.sqrt(low**2 + u * (high**2 - low**2))
        flat = np.abs(high - low) < 1e-9
        t = np.where(flat, u, (radius - low) / np.where(flat, 1.0, high - low))
        angle = rng.random(count) * 2 * np.pi
        y = heights[ring] + t * (heights[ring + 1] - heights[ring])
        return np.stack([radius * np.cos(angle), y, radius * np.sin(angle)], 1) + at

    return float(areas.sum()), sample


def _superquadric(radii: tuple[float, float, float], e1: float, e2: float, at: tuple[float, float, float]) -> Part:
    """A superquadric around a place; its points are drawn evenly in the sphere's directions."""

    def power(x: np.ndarray, e: float) -> np.ndarray:
        return np.sign(x) * np.abs(x) ** e

    def sample(rng: np.random.Generator, count: int) -> np.ndarray:
        u, v = rng.uniform(-np.pi, np.pi, count), np.arcsin(rng.uniform(-1, 1, count))
        ring = power(np.cos(v), e1)
        points = np.stack([ring * power(np.cos(u), e2), power(np.sin(v), e1), ring * power(np.sin(u), e2)], 1)
        return points * radii + at

    a, b, c = radii
    return 4 * np.pi * ((a * b) ** 1.6 / 3 + (a * c) ** 1.6 / 3 + (b * c) ** 1.6 / 3) ** (1 / 1.6), sample


def _tube(ring: float, thick: float, arc: float, plane: int, at: tuple[float, float, float]) -> Part:
    """A tube of a thickness along an arc (2 pi for a torus) of a radius, in the plane normal to an axis."""

    def sample(rng: np.random.Generator, count: int) -> np.ndarray:
        along, around = rng.random(count) * arc, rng.random(count) * 2 * np.pi
        radius = ring + thick * np.cos(around)
        points = np.stack([radius * np.cos(along), radius * np.sin(along), thick * np.sin(around)], 1)
        return np.roll(points, plane - 2, axis=1) + at

    return 2 * np.pi * thick * ring * arc, sample


def _legs(rng: np.random.Generator, w: float, d: float, height: float, thick: float) -> list[Part]:
    """Four legs at the corners, square or round, or one column with a foot."""
    if rng.random() < 0.2:
        foot = _lathe(np.full(2, rng.uniform(0.25, 0.45) * min(w, d)), thick, (0, 0, 0))
        return [foot, _lathe(np.full(2, thick), height, (0, 0, 0))]
    places = [(x * (w / 2 - thick), 0.0, z * (d / 2 - thick)) for x in (-1, 1) for z in (-1, 1)]
    if rng.random() < 0.5:
        return [_box((thick, height, thick), place) for place in places]
    return [_lathe(np.array([rng.uniform(0.5, 1), 1]) * thick / 2, height, place) for place in places]


def _table(rng: np.random.Generator) -> list[Part]:
    w, d, h = rng.uniform(0.5, 2.0), rng.uniform(0.4, 1.0), rng.uniform(0.3, 1.1)
    thick = rng.uniform(0.03, 0.1)
    if rng.random() < 0.3:
        top = _lathe(np.full(2, d / 2), thick, (0, h, 0))
        return [top, *_legs(rng, d * 0.8, d * 0.8, h, thick)]
    parts = [_box((w, thick, d), (0, h, 0)), *_legs(rng, w, d, h, rng.uniform(0.03, 0.1))]
    if rng.random() < 0.3:
        parts.append(_box((w * rng.uniform(0.2, 0.4), h * 0.9, d * 0.9), (w * 0.3, h * 0.1, 0)))
    return parts


def _chair(rng: np.random.Generator) -> list[Part]:
    w, d, h = rng.uniform(0.35, 0.6), rng.uniform(0.35, 0.6), rng.uniform(0.35, 0.8)
    back, thick = rng.uniform(0.0, 0.7), rng.uniform(0.03, 0.12)
    parts = [_box((w, thick, d), (0, h, 0)), *_legs(rng, w, d, h, rng.uniform(0.03, 0.06))]
    if back > 0.15:
        if rng.random() < 0.5:
            parts.append(_box((w, back, 0.04), (0, h + thick, -d / 2)))
        else:
            count = int(rng.integers(3, 7))
            parts += [_box((0.03, back, 0.03), (x, h + thick, -d / 2)) for x in np.linspace(-w / 2, w / 2, count)]
            parts.append(_box((w, 0.05, 0.04), (0, h + thick + back, -d / 2)))
    if rng.random() < 0.3:
        parts += [_box((0.04, 0.04, d), (x * w / 2, h + 0.25, 0)) for x in (-1, 1)]
    return parts


def _shelf(rng: np.random.Generator) -> list[Part]:
    w, d, h, thick = rng.uniform(0.4, 1.6), rng.uniform(0.2, 0.5), rng.uniform(0.5, 2.2), 0.03
    parts = [_box((thick, h, d), (x * w / 2, 0, 0)) for x in (-1, 1)]
    parts += [_box((w, thick, d), (0, y, 0)) for y in np.linspace(0, h, int(rng.integers(2, 8)))]
    if rng.random() < 0.6:
        parts.append(_box((w, h, 0.01), (0, 0, -d / 2)))
    return parts


def _cabinet(rng: np.random.Generator) -> list[Part]:
    w, d, h = rng.uniform(0.3, 2.0), rng.uniform(0.3, 0.8), rng.uniform(0.4, 2.2)
    parts = [_box((w, h, d), (0, 0, 0))]
    for x in np.linspace(-w / 2, w / 2, int(rng.integers(1, 4)) + 2)[1:-1]:
        parts.append(_box((0.03, rng.uniform(0.05, 0.3), 0.05), (x, h * rng.uniform(0.3, 0.7), d / 2)))
    if rng.random() < 0.4:
        parts.append(_box((w * 1.05, 0.04, d * 1.05), (0, h, 0)))
    return parts


def _bed(rng: np.random.Generator) -> list[Part]:
    w, d, h = rng.uniform(0.7, 2.0), rng.uniform(1.6, 2.2), rng.uniform(0.2, 0.5)
    parts = [_box((w, h, d), (0, rng.uniform(0, 0.2), 0)), _box((w, h + rng.uniform(0.1, 0.8), 0.06), (0, 0, -d / 2))]
    count = 1 if w < 1.2 else 2
    for x in (np.arange(count) - (count - 1) / 2) * w / 2:
        parts.append(_superquadric((w / count * 0.4, 0.07, 0.2), 0.5, 0.5, (x, h + 0.2, -d * 0.38)))
    if rng.random() < 0.3:
        parts.append(_box((w, h + 0.1, 0.05), (0, 0, d / 2)))
    return parts


def _sofa(rng: np.random.Generator) -> list[Part]:
    w, d, h = rng.uniform(0.7, 2.4), rng.uniform(0.7, 1.0), rng.uniform(0.3, 0.5)
    arm, back = rng.uniform(0.1, 0.25), rng.uniform(0.3, 0.6)
    parts = [_box((w, h, d), (0, 0, 0)), _box((w, h + back, 0.2), (0, 0, -d / 2))]
    parts += [_box((arm, h + rng.uniform(0.1, 0.3), d), (x * (w + arm) / 2, 0, 0)) for x in (-1, 1)]
    for x in np.linspace(-w / 2, w / 2, int(rng.integers(1, 4)) * 2 + 1)[1::2]:
        parts.append(_superquadric((w / 7, 0.1, d * 0.4), 0.4, 0.4, (x, h, 0)))
    return parts


def _profile(rng: np.random.Generator) -> np.ndarray:
    """A smooth random profile of radii about 1, not below 0.15."""
    t = np.linspace(0, 1, 12)
    wave = sum(rng.normal() * 0.35 / k * np.sin(np.pi * k * t + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3))
    return np.clip(1 + rng.normal() * 0.6 * (t - 0.5) + wave, 0.15, None)


def _lamp(rng: np.random.Generator) -> list[Part]:
    h, shade = rng.uniform(0.3, 1.8), rng.uniform(0.12, 0.4)
    cone = _lathe(np.array([shade, shade * rng.uniform(0.2, 1)]), shade * rng.uniform(0.6, 1.6), (0, h, 0), True)
    if rng.random() < 0.4:  # hangs from the ceiling
        return [cone, _lathe(np.full(2, 0.012), rng.uniform(0.2, 1.5), (0, h + shade, 0))]
    base = _lathe(np.full(2, shade * rng.uniform(0.5, 1)), 0.04, (0, 0, 0))
    stem = _profile(rng) * 0.06 if rng.random() < 0.4 else np.full(2, 0.02)
    return [cone, base, _lathe(stem, h, (0, 0, 0))]


def _vessel(rng: np.random.Generator) -> list[Part]:
    h, r = rng.uniform(0.2, 1.2), rng.uniform(0.15, 0.5)
    parts = [_lathe(_profile(rng) * r, h, (0, 0, 0), bool(rng.random() < 0.7))]
    for _ in range(int(rng.integers(0, 3))):
        side = rng.choice([-1, 1])
        parts.append(_tube(h * rng.uniform(0.15, 0.3), 0.03, 2 * np.pi, 2, (side * r * 1.2, h * 0.5, 0)))
    return parts


def _door(rng: np.random.Generator) -> list[Part]:
    w, h, d = rng.uniform(0.5, 2.0), rng.uniform(0.6, 2.2), rng.uniform(0.03, 0.15)
    bar = rng.uniform(0.04, 0.12)
    parts = [_box((bar, h, d), (x, 0, 0)) for x in np.linspace(-w / 2, w / 2, int(rng.integers(2, 5)))]
    parts += [_box((w, bar, d), (0, y, 0)) for y in np.linspace(0, h, int(rng.integers(2, 5)))]
    if rng.random() < 0.6:
        parts.append(_box((w, h, 0.02), (0, 0, 0)))
    return parts


def _stairs(rng: np.random.Generator) -> list[Part]:
    count, w = int(rng.integers(4, 12)), rng.uniform(0.6, 1.4)
    rise, run = rng.uniform(0.14, 0.25), rng.uniform(0.2, 0.35)
    solid = rng.random() < 0.5
    turn = rng.uniform(0.2, 0.5) if rng.random() < 0.3 else 0.0  # a spiral
    parts: list[Part] = []
    for i in range(count):
        height, y = ((i + 1) * rise, 0.0) if solid else (0.04, i * rise)
        place = (np.sin(turn * i) * w, y, np.cos(turn * i) * w) if turn else (0.0, y, -i * run)
        parts.append(_box((w if not turn else 0.5, height, run), place))
    if turn:
        parts.append(_lathe(np.full(2, 0.06), count * rise, (0, 0, 0)))
    return parts


def _wheeled(rng: np.random.Generator) -> list[Part]:
    w, h, d = rng.uniform(0.5, 1.0), rng.uniform(0.25, 0.6), rng.uniform(0.9, 2.2)
    r = rng.uniform(0.12, 0.3)
    parts = [_superquadric((w / 2, h / 2, d / 2), rng.uniform(0.2, 0.9), rng.uniform(0.2, 0.9), (0, r + h / 2, 0))]
    if rng.random() < 0.7:
        parts.append(_box((w * 0.8, h * 0.7, d * 0.5), (0, r + h, -d * rng.uniform(-0.1, 0.1))))
    parts += [_tube(r * 0.75, r * 0.25, 2 * np.pi, 0, (x * w / 2, r, z * d * 0.33)) for x in (-1, 1) for z in (-1, 1)]
    return parts


def _figure(rng: np.random.Generator) -> list[Part]:
    """Upright, limbs and a head: people, animals, statues."""
    h = rng.uniform(0.5, 0.9)
    spread = rng.uniform(0.08, 0.2)
    parts = [_superquadric((spread * 1.4, h * 0.35, spread), 1.0, 1.0, (0, h * 1.2, 0))]
    parts.append(_superquadric((h * 0.15, h * 0.18, h * 0.15), 1.0, 1.0, (0, h * 1.75, 0)))
    parts += [_lathe(np.array([0.6, 1.0]) * h * 0.09, h, (x * spread * 0.7, 0, 0)) for x in (-1, 1)]
    reach = rng.uniform(0.3, 0.7) * h
    parts += [_box((h * 0.1, reach, h * 0.1), (x * spread * 1.7, h * 1.5 - reach, 0)) for x in (-1, 1)]
    return parts


def _free(rng: np.random.Generator) -> list[Part]:
    parts: list[Part] = []
    for _ in range(int(rng.integers(1, 6))):
        at = tuple(rng.uniform(-0.6, 0.6, 3))
        size = tuple(np.exp(rng.normal(-1.0, 0.6, 3)))
        kind = rng.integers(4)
        if kind == 0:
            parts.append(_box(size, at))
        elif kind == 1:
            parts.append(_lathe(_profile(rng) * size[0], size[1] * 2, at, bool(rng.random() < 0.5)))
        elif kind == 2:
            parts.append(_superquadric(size, rng.uniform(0.2, 2), rng.uniform(0.2, 2), at))
        else:
            arc = 2 * np.pi * rng.uniform(0.3, 1)
            parts.append(_tube(size[0], size[0] * rng.uniform(0.05, 0.4), arc, int(rng.integers(3)), at))
    return parts


_RECIPES: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "table": _table,
    "chair": _chair,
    "shelf": _shelf,
    "cabinet": _cabinet,
    "bed": _bed,
    "sofa": _sofa,
    "lamp": _lamp,
    "vessel": _vessel,
    "door": _door,
    "stairs": _stairs,
    "wheeled": _wheeled,
    "figure": _figure,
    "free": _free,
}
SHAPE_KINDS = tuple(_RECIPES)
"""The kinds of shapes."""


def generate_shape(seed: int | list[int], num_points: int = 1024, kind: str | None = None) -> tuple[np.ndarray, str]:
    """Generate one shape.

    Args:
        seed: Seed, or a list of numbers that together are one; the same gives the same shape.
        num_points: Points to draw.
        kind: One of `SHAPE_KINDS`; None to draw it too.

    Returns:
        Points `(num_points, 3)` float32 and the kind.

    Raises:
        ValueError: If there is no such kind.
    """
    if kind is not None and kind not in _RECIPES:
        raise ValueError(f"got kind {kind!r}; expected one of {', '.join(SHAPE_KINDS)}.")
    rng = np.random.default_rng(seed)
    drawn = SHAPE_KINDS[int(rng.integers(len(SHAPE_KINDS)))]
    kind = kind or drawn
    parts = _RECIPES[kind](rng)
    areas = np.array([area for area, _ in parts])
    counts = rng.multinomial(num_points, areas / areas.sum())
    points = np.concatenate([sample(rng, int(n)) for n, (_, sample) in zip(counts, parts, strict=True) if n])
    points -= (points.min(0) + points.max(0)) / 2
    points /= np.linalg.norm(points, axis=1).max()
    return points.astype(np.float32), kind
