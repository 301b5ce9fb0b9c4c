"""GapReport: how far two sides of a contrastive space are apart, before and after any number of corrections."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hf_modalbridge.corrections import Correction
from hf_modalbridge.corrections.streams import Embeddings
from hf_modalbridge.evaluation import gap_advice
from hf_modalbridge.evaluation.gap_checks import check_inputs, match_rows
from hf_modalbridge.evaluation.gap_measure import Gauge, Measured, Settings
from hf_modalbridge.evaluation.gap_rows import Rows
from hf_modalbridge.evaluation.gap_spectra import Estimate, SideMoments

__all__ = ["GapReport", "SideStatistics"]

Corrected = Embeddings | Correction


@dataclass
class SideStatistics:
    """Statistics of the unit rows of one side.

    Attributes:
        rows: Their number.
        mean_norm: Length of their mean, between 0 (spread around the origin) and 1 (all alike).
        trace: Trace of their covariance, 1 - mean_norm^2.
        gap: Distance of their mean from the target's.
    """

    rows: int
    mean_norm: float
    trace: float
    gap: float


@dataclass
class GapReport:
    """The modality gap of a source and of its corrections to one target.

    Attributes:
        dim: Width of the embeddings.
        sides: Statistics by side: "source", "target", each corrected set, and "transformed target" where a
            correction moves the target too.
        sets: Estimates by set ("source" and the corrected ones) and measure; docs/gap-report.md explains each.
        target: Estimates of the target by itself, to compare exponent, ranks and uniformity with.
        references: What chance gives, or what well mixed sets give, by measure.
        pairs: Number of pairs that were measured.
        settings: How it was measured.
        recommendation: One sentence.
        warnings: What makes the numbers hard to trust.
        curves: Spectra, densities and some rows by set, for the plots.
    """

    dim: int
    sides: dict[str, SideStatistics]
    sets: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    target: dict[str, Estimate] = field(default_factory=dict)
    references: dict[str, float] = field(default_factory=dict)
    pairs: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    recommendation: str = ""
    warnings: list[str] = field(default_factory=list)
    curves: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    @classmethod
    def compute(
        cls,
        source: Embeddings,
        target: Embeddings,
        corrected: Mapping[str, Corrected] | Corrected | None = None,
        pairs: bool | Any = None,
        ks: Sequence[int] = (1, 5, 10),
        *,
        seed: int = 0,
        sample: int = 10_000,
        bootstrap: int = 200,
        k: int = 20,
        q: int | None = None,
        pool: int = 1_000_000,
        fitted_on: tuple[Embeddings, Embeddings] | None = None,
        progress: bool = False,
    ) -> GapReport:
        """Measure the gap. Stores are streamed, not loaded.

        Means and covariances are of all rows. Neighbours are exact, among all rows, for `sample` queries a side;
        angles, the linear classifier and pairs use at most `sample` rows too. All is of unit rows, in eval mode.

        Args:
            source: Array or tensor `(n, dim)` or a store; text, say.
            target: The same for the modality, `(m, dim)`.
            corrected: By name, fitted corrections, which are applied here (and their `transform_target` to the
                target), or the corrected source row by row. One alone is named "corrected".
            pairs: What belongs together: positions in source and target, as a pair of sequences or an `(n, 2)` array;
                or True: rows with equal ids in stores, equal positions in arrays. None or False: no pairs.
            ks: Cut-offs of the recall.
            seed: Of samples and resamples.
            sample: Largest number of queries of a side and of pairs.
            bootstrap: Resamples of the 95 % intervals, an eighth as many where eigenvalues are involved; 0: none.
            k: Neighbours.
            q: Directions of O_q, eta_U and E(K); min(128, dim / 4) by default.
            pool: Largest number of rows of a side that neighbours are looked for among; more are sampled.
            fitted_on: Source and target that the corrections were fitted on, to warn of rows seen before.
            progress: Whether to show progress bars.

        Returns:
            The report.

        Raises:
            ValueError: If widths differ, a side is empty or has bad rows, a correction is of another encoder, or
                pairs or corrected rows do not match the source.
        """
        sides = Rows(source, "source"), Rows(target, "target")
        given = corrected if isinstance(corrected, Mapping) else {} if corrected is None else {"corrected": corrected}
        check_inputs(*sides, given)
        settings = Settings(
            seed=seed,
            sample=_at_least_one(sample, "sample"),
            bootstrap=bootstrap,
            k=_at_least_one(k, "k"),
            q=q or max(1, min(128, sides[0].dim // 4)),
            pool=_at_least_one(pool, "pool"),
            ks=tuple(int(k) for k in ks),
            progress=progress,
        )
        matched = match_rows(pairs, source, target, settings.sample, settings.seed)
        gauge = Gauge(*sides, settings, matched)
        measured = {"source": gauge.measure("source")}
        for name, item in given.items():
            measured[name] = _measure_one(gauge, name, item)
        simplicity = {"source": 0.0} | {name: gap_advice.complexity(item) for name, item in given.items()}
        target_estimates = gauge.measure_target()
        n, m = len(gauge.target_pool), len(gauge.source_pool)
        return cls(
            dim=sides[0].dim,
            sides=_sides(gauge, measured),
            sets={name: found.estimates for name, found in measured.items()},
            target=target_estimates,
            references={
                "subspace_overlap": settings.q / sides[0].dim,
                "frame_coverage": settings.q / sides[0].dim,
                "mixing_rate": (n / (n + m - 1) + m / (n + m - 1)) / 2,
                "mixing_z": 1.0,
                "mixing_x": 1.0,
                "separability": 0.5,
                "omega": gauge.k / max(1, m - 1),
            },
            pairs=0 if matched is None else len(matched[0]),
            settings=asdict(settings)
            | {"k": gauge.k, "source_queries": len(gauge.source_queries), "target_queries": len(gauge.target_queries)},
            recommendation=gap_advice.recommend(measured, simplicity, matched is not None),
            warnings=gap_advice.warn(gauge, measured, given, fitted_on),
            curves={name: found.curves for name, found in measured.items()},
        )

    @property
    def retrieval(self) -> dict[str, dict[int, float]]:
        """Recall by set and cut-off among the targets of all pairs; empty without pairs."""
        out: dict[str, dict[int, float]] = {}
        for name, estimates in self.sets.items():
            found = {int(key.split("@")[1]): e.value for key, e in estimates.items() if key.startswith("recall@")}
            if found:
                out[name] = found
        return out

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain values for JSON, without the curves.

        Returns:
            Nested dicts; None where a number is not defined.
        """
        plain = {key: value for key, value in vars(self).items() if key != "curves"}
        plain["sides"] = {name: asdict(side) for name, side in self.sides.items()}
        plain["sets"] = {
            name: {key: asdict(e) for key, e in estimates.items()} for name, estimates in self.sets.items()
        }
        plain["target"] = {key: asdict(e) for key, e in self.target.items()}
        plain["retrieval"] = {
            name: {str(k): value for k, value in found.items()} for name, found in self.retrieval.items()
        }
        return _plain(plain)

    def to_json(self) -> str:
        """Give the report as JSON.

        Returns:
            Indented text.
        """
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_markdown(self) -> str:
        """Give the report as Markdown: recommendation, warnings and tables.

        Returns:
            The text.
        """
        from hf_modalbridge.evaluation.gap_tables import to_markdown

        return to_markdown(self)

    def print(self, console: Any = None) -> None:
        """Print the report to the terminal.

        Args:
            console: A `rich.console.Console`; a new one by default.
        """
        from hf_modalbridge.evaluation.gap_tables import print_report

        print_report(self, console)

    def plot(self) -> dict[str, Any]:
        """Draw spectra, densities of angles, a view in two dimensions, mixing and, with pairs, retrieval.

        Returns:
            A matplotlib figure by name.

        Raises:
            ImportError: If matplotlib is missing.
        """
        from hf_modalbridge.evaluation.gap_plots import plot_report

        return plot_report(self)

    def to_html(self, path: str | os.PathLike[str] | None = None, title: str = "Modality gap report") -> str:
        """Give the report as one self-contained page with plots.

        Args:
            path: Where to write it, if anywhere.
            title: Of the page.

        Returns:
            The page.

        Raises:
            ImportError: If matplotlib is missing.
        """
        from hf_modalbridge.evaluation.gap_page import to_html

        page = to_html(self, title)
        if path is not None:
            Path(path).write_text(page, encoding="utf-8")
        return page

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON, Markdown or a page, by the name's ending.

        Args:
            path: File that ends in .json, .md or .html.

        Raises:
            ValueError: If it ends otherwise.
        """
        kinds = {".json": self.to_json, ".md": self.to_markdown, ".html": self.to_html}
        suffix = Path(path).suffix
        if suffix not in kinds:
            raise ValueError(f"a report is written to a .json, .md or .html file, got {str(path)!r}.")
        Path(path).write_text(kinds[suffix]().rstrip("\n") + "\n", encoding="utf-8")


def _measure_one(gauge: Gauge, name: str, item: Corrected) -> Measured:
    if not isinstance(item, Correction):
        return gauge.measure(name, given=Rows(item, name))
    correction = item.eval()
    moves = type(correction)._transform_target is not Correction._transform_target
    return gauge.measure(name, correction.forward, goal_through=correction.transform_target if moves else None)


def _sides(gauge: Gauge, measured: Mapping[str, Measured]) -> dict[str, SideStatistics]:
    def statistics(m: SideMoments, goal: SideMoments) -> SideStatistics:
        return SideStatistics(m.count, float(m.mean.norm()), m.trace, float((m.mean - goal.mean).norm()))

    sides = {"source": statistics(gauge.source_moments, gauge.target_moments)}
    sides["target"] = statistics(gauge.target_moments, gauge.target_moments)
    for name, m in measured.items():
        if name != "source":
            sides[name] = statistics(m.moments, m.goal)
        if m.goal is not gauge.target_moments:
            label = "transformed target" if len(measured) == 2 else f"target through {name}"
            sides[label] = statistics(m.goal, m.goal)
    return sides


def _plain(value: Any) -> Any:
    """Turn numbers that JSON lacks into None, and tuples into lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _at_least_one(value: int, name: str) -> int:
    if value < 1:
        raise ValueError(f"{name} is at least 1, got {value}.")
    return int(value)
