"""Measure sets of embeddings against a target: moments over all rows, the rest on samples of rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from hf_modalbridge.evaluation.gap_rows import Rows, RowSubset
from hf_modalbridge.evaluation.gap_spectra import (
    Estimate,
    SideMoments,
    first_order,
    gather_moments,
    residual_measures,
    second_order,
)
from hf_modalbridge.functional import gap_angles, gap_neighbors, gap_pairs
from hf_modalbridge.functional.gap import top_directions
from hf_modalbridge.functional.geometry import normalize_rows
from hf_modalbridge.functional.resampling import interval, mean_replicates, resample_weights

__all__ = ["Gauge", "Measured", "Settings"]

COSINE_PAIRS = 50_000
UNIFORMITY_ROWS = 4_000
PLOTTED_ROWS = 300


@dataclass(frozen=True)
class Settings:
    """How a report measures.

    Attributes:
        seed: Of samples and resamples.
        sample: Largest number of rows of a side that are queries, and of pairs.
        bootstrap: Resamples of the intervals; 0 for none.
        k: Neighbours.
        q: Directions of O_q, eta_U and E(K).
        pool: Largest number of rows of a side that neighbours are looked for among.
        ks: Cut-offs of the recall.
        progress: Whether to show progress bars.
    """

    seed: int = 0
    sample: int = 10_000
    bootstrap: int = 200
    k: int = 20
    q: int = 128
    pool: int = 1_000_000
    ks: tuple[int, ...] = (1, 5, 10)
    progress: bool = False


@dataclass
class Measured:
    """What was measured of one set.

    Attributes:
        moments: Of its unit rows.
        goal: Of the rows that it is compared with.
        estimates: By name of the measure.
        replicates: Bootstrap replicates `(samples,)` of what a recommendation compares; equal rows in equal
            places for all sets.
        curves: Lists of numbers for plots.
    """

    moments: SideMoments
    goal: SideMoments
    estimates: dict[str, Estimate] = field(default_factory=dict)
    replicates: dict[str, Tensor] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)


class Gauge:
    """Measures sets that stem from one source against one target; what does not change is computed once.

    Args:
        source: Rows of the source.
        target: Rows of the target.
        settings: How to measure.
        pairs: Positions in source and target that belong together, `(n,)` each; None: no pairs.
    """

    def __init__(
        self, source: Rows, target: Rows, settings: Settings, pairs: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self.source, self.target, self.settings, self.pairs = source, target, settings, pairs
        self.source_moments = self._moments(source, settings.seed, inspect=True)
        self.target_moments = self._moments(target, settings.seed + 1, inspect=True)
        self.source_pool = self._pool(source, settings.seed)
        self.target_pool = self._pool(target, settings.seed if len(source) == len(target) else settings.seed + 1)
        self.source_queries = _draw(len(self.source_pool), settings.sample, settings.seed)
        equal = len(self.source_pool) == len(self.target_pool)
        self.target_queries = _draw(len(self.target_pool), settings.sample, settings.seed + (0 if equal else 1))
        self.k = max(1, min(settings.k, len(self.source_pool) - 1, len(self.target_pool) - 1))
        self._cache: dict[str, Any] = {}

    def measure(self, name: str, through: Any = None, given: Rows | None = None, goal_through: Any = None) -> Measured:
        """Measure one set.

        Args:
            name: Of the set, for progress.
            through: Function that corrects source rows; None for the source itself or `given` rows.
            given: Corrected rows, one for each source row.
            goal_through: What target rows go through to be compared with it; None: nothing.

        Returns:
            The measures.
        """
        s = self.settings
        corrected = given is not None or through is not None
        rows = given or (self.source.moved(through, name) if through else self.source)
        goal_rows = self.target.moved(goal_through, "transformed target") if goal_through else self.target
        moments = self._moments(rows, s.seed, before=self.source) if corrected else self.source_moments
        goal = self._moments(goal_rows, s.seed + 1) if goal_through else self.target_moments
        out = Measured(moments, goal)
        q = min(s.q, rows.dim)
        out.estimates |= first_order(moments, goal, self.source_moments, s.bootstrap)
        out.estimates |= second_order(moments, goal, q, s.bootstrap)
        z_pool = self._same_rows(self.source_pool, rows) if corrected else self.source_pool
        x_pool = self._same_rows(self.target_pool, goal_rows) if goal_through else self.target_pool
        z, x = z_pool.take(self.source_queries), x_pool.take(self.target_queries)
        self._angles(out, z, x, corrected)
        self._neighbors(out, z, x, z_pool, x_pool, name, corrected, bool(goal_through))
        if self.pairs is not None:
            self._pairs(out, rows, goal_rows, q)
        out.curves["spectrum"] = moments.spectrum[:256].tolist()
        out.curves["goal_spectrum"] = goal.spectrum[:256].tolist()
        return out

    def measure_target(self) -> dict[str, Estimate]:
        """Measure the target by itself.

        Returns:
            Exponent, effective ranks and uniformity.
        """
        kept = ("exponent", "effective_rank", "participation_ratio")
        found = second_order(
            self.target_moments, self.target_moments, min(self.settings.q, self.target.dim), self.settings.bootstrap
        )
        out = {name: found[name] for name in kept}
        out["uniformity"] = Estimate(self._uniformity(self.target_pool.take(self.target_queries)))
        return out

    def _moments(self, rows: Rows, seed: int, before: Rows | None = None, inspect: bool = False) -> SideMoments:
        with self._bar(len(rows), f"{rows.what} moments") as bar:
            return gather_moments(rows, seed, before, inspect, bar.update)

    def _bar(self, total: int, what: str) -> tqdm:
        return tqdm(total=total, desc=what, unit="row", disable=not self.settings.progress, leave=False)

    def _pool(self, rows: Rows, seed: int) -> Rows:
        """Give the rows that neighbours are looked for among: all, or a sample of a huge side."""
        if len(rows) <= self.settings.pool:
            return rows
        if len(rows.parts) > 1:
            raise ValueError(
                f"the {rows.what} has {len(rows):,} rows in several parts, and at most pool={self.settings.pool:,} are "
                "sampled from one. Write one store, or raise pool."
            )
        self.pool_positions = _draw(len(rows), self.settings.pool, seed)
        pool = Rows(RowSubset(rows.parts[0], self.pool_positions), rows.what)
        pool.through = rows.through
        return pool

    def _same_rows(self, pool: Rows, rows: Rows) -> Rows:
        """Give the pool's rows on another set of the same order."""
        part = pool.parts[0]
        if len(pool) == len(rows):
            return rows
        assert isinstance(part, RowSubset)
        chosen = Rows(RowSubset(rows.parts[0], part.chosen), rows.what)
        chosen.through = rows.through
        return chosen

    def _mean(self, values: Tensor, weights: Tensor | None) -> Estimate:
        """Estimate a mean of independent values."""
        value = float(values.double().mean())
        if weights is None:
            return Estimate(value)
        return Estimate(value, *interval(mean_replicates(values, weights)))

    def _weights(self, rows: int, what: str) -> Tensor | None:
        """Give the resamples of sampled rows, the same for every set."""
        if not self.settings.bootstrap:
            return None
        key = f"weights {what} {rows}"
        if key not in self._cache:
            offset = {"source": 0, "target": 1, "pairs": 2}[what]
            self._cache[key] = resample_weights(rows, self.settings.bootstrap, self.settings.seed + offset)
        return self._cache[key]

    def _uniformity(self, rows: Tensor) -> float:
        return gap_angles.uniformity(rows[:UNIFORMITY_ROWS])

    def _angles(self, out: Measured, z: Tensor, x: Tensor, corrected: bool) -> None:
        """Measure what pairwise cosines and a linear classifier say."""
        seed = self.settings.seed
        unit = normalize_rows(z.double()), normalize_rows(x.double())
        pairs = [gap_angles.pair_positions(len(side), COSINE_PAIRS, seed) for side in unit]
        cosines = [(side[a] * side[b]).sum(1) for side, (a, b) in zip(unit, pairs, strict=True)]
        widths = [gap_angles.scott_bandwidth(c) for c in cosines]
        densities = [gap_angles.cosine_density(c, width) for c, width in zip(cosines, widths, strict=True)]
        js = float(gap_angles.jensen_shannon(densities[0], densities[1]))
        out.curves["density"], out.curves["goal_density"] = (d.tolist() for d in densities)
        out.estimates["angular_js"] = Estimate(js)
        w = self._weights(len(z), "source"), self._weights(len(x), "target")
        weights: list[list[Tensor]] = []
        if w[0] is not None and w[1] is not None:
            weights = [[line[a] * line[b] for line in side] for side, (a, b) in zip(w, pairs, strict=True)]
            drawn = []
            for c, width, lines in zip(cosines, widths, weights, strict=True):
                counts = torch.stack([gap_angles.cosine_histogram(c, line) for line in lines])
                drawn.append(gap_angles.smoothed_histogram(counts, width))
            low, high = interval(gap_angles.jensen_shannon(drawn[0], drawn[1]), centre=js)
            out.estimates["angular_js"] = Estimate(js, max(0.0, low), high)
        if not corrected:
            self._cache["source_cosines"] = cosines[0]
        elif "source_cosines" in self._cache:
            before = self._cache["source_cosines"]
            psi = float(gap_pairs.weighted_correlation(before, cosines[0]))
            ends = interval([float(gap_pairs.weighted_correlation(before, cosines[0], v)) for v in weights[0]]) \
                if weights else (None, None)  # fmt: skip
            out.estimates["psi"] = Estimate(psi, *ends)
        right = gap_angles.linear_separability(z, x, seed=seed)
        low_high: tuple[float | None, float | None] = (None, None)
        if w[0] is not None and w[1] is not None:
            sides = mean_replicates(right[: len(z)], w[0]), mean_replicates(right[len(z) :], w[1])
            low_high = interval((sides[0] * len(z) + sides[1] * len(x)) / (len(z) + len(x)))
        out.estimates["separability"] = Estimate(float(right.mean()), *low_high)
        out.estimates["uniformity"] = Estimate(self._uniformity(z))
        out.curves["rows"], out.curves["goal_rows"] = unit[0][:PLOTTED_ROWS], unit[1][:PLOTTED_ROWS]

    def _neighbors(
        self, out: Measured, z: Tensor, x: Tensor, z_pool: Rows, x_pool: Rows, name: str, corrected: bool, moved: bool
    ) -> None:
        """Measure mixing of set and target, and how far neighbourhoods inside the set are kept."""
        k, zq, xq = self.k, self.source_queries, self.target_queries
        n, m = len(x_pool), len(z_pool)
        z_in_x, x_in_z = gap_neighbors.Neighbors(z, k), gap_neighbors.Neighbors(x, k)
        z_in_z = gap_neighbors.Neighbors(z, k, zq)
        cached = None if moved else self._cache.get("x_in_x")
        x_in_x = cached or gap_neighbors.Neighbors(x, k, xq)
        with self._bar(n + m, f"{name} neighbours") as bar:
            for block in x_pool.blocks():
                z_in_x.add(block)
                if cached is None:
                    x_in_x.add(block)
                bar.update(len(block))
            for block in z_pool.blocks():
                z_in_z.add(block)
                x_in_z.add(block)
                bar.update(len(block))
        if not moved:
            self._cache["x_in_x"] = x_in_x
        shares = (
            gap_neighbors.mixing_shares(z_in_x.cosines, z_in_z.cosines),
            gap_neighbors.mixing_shares(x_in_x.cosines, x_in_z.cosines),
        )
        w = self._weights(len(z), "source"), self._weights(len(x), "target")
        rates = [gap_neighbors.mixing_rate(share, bool(i)) for i, share in enumerate(shares)]
        mixing = [gap_neighbors.mixing_entropy(share, n, m, k) for share in shares]
        rate = float((rates[0].mean() + rates[1].mean()) / 2)
        ends: tuple[float | None, float | None] = (None, None)
        if w[0] is not None and w[1] is not None:
            ends = interval((mean_replicates(rates[0], w[0]) + mean_replicates(rates[1], w[1])) / 2)
            drawn = mean_replicates(mixing[0], w[0]), mean_replicates(mixing[1], w[1])
            out.replicates["mixing"] = (drawn[0] + drawn[1]) / 2
        out.estimates["mixing_rate"] = Estimate(rate, *ends)
        out.estimates["mixing_z"] = self._mean(mixing[0], w[0])
        out.estimates["mixing_x"] = self._mean(mixing[1], w[1])
        if not corrected:
            self._cache["source_neighbors"] = z_in_z.positions
        overlap = gap_neighbors.neighbor_overlap(self._cache["source_neighbors"], z_in_z.positions)
        if w[0] is not None:
            out.replicates["omega"] = mean_replicates(overlap, w[0])
        if corrected:
            out.estimates["omega"] = self._mean(overlap, w[0])

    def _pairs(self, out: Measured, rows: Rows, goal: Rows, q: int) -> None:
        """Measure what pairs say."""
        assert self.pairs is not None
        s = self.settings
        z, x = rows.take(self.pairs[0]), goal.take(self.pairs[1])
        w = self._weights(len(z), "pairs")
        unit = normalize_rows(z.double()), normalize_rows(x.double())
        cosines = gap_pairs.row_cosines(z, x)
        out.estimates["pair_cosine"] = self._mean(cosines, w)
        out.estimates["alignment"] = self._mean(2 - 2 * cosines, w)
        if len(z) > 1:
            few = slice(0, UNIFORMITY_ROWS)
            out.estimates["cross_uniformity"] = Estimate(gap_angles.cross_uniformity(z[few], x[few]))
            frame = top_directions(self.target_moments.covariance + self.source_moments.covariance, q)
            out.estimates |= residual_measures(unit[1] - unit[0], frame, q, s.bootstrap, s.seed + 2)
        for prefix, others in (("", None), ("mixed_", z)):
            ranks = gap_pairs.retrieval_ranks(z, x, others)
            for k in s.ks:
                out.estimates[f"{prefix}recall@{k}"] = self._mean((ranks < k).double(), w)
            reciprocal = 1 / (1 + ranks.double())
            out.estimates[f"{prefix}mrr"] = self._mean(reciprocal, w)
            if w is not None:
                out.replicates[f"{prefix}mrr"] = mean_replicates(reciprocal, w)


def _draw(rows: int, most: int, seed: int) -> Tensor:
    """Draw positions without replacement, sorted; all of them if there are no more."""
    if rows <= most:
        return torch.arange(rows)
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed))[:most].sort().values
