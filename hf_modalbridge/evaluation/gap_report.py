"""GapReport: how far two sides of a contrastive space are apart, before and after a correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_modalbridge.corrections import Correction, unit_moments
from hf_modalbridge.corrections.streams import Embeddings, RowStream
from hf_modalbridge.functional.geometry import centroid_gap, recall_at_k
from hf_modalbridge.functional.moments import Moments

__all__ = ["GapReport", "SideStatistics"]


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
    """Means, traces and centroid gaps of source, corrected source and target, and retrieval across them.

    Attributes:
        dim: Width of the embeddings.
        sides: Statistics by side: "source", "target", and "corrected" and "transformed target" if asked for.
        retrieval: Recall by side ("source", "corrected") and cut-off: how often a row's own target is among the k
            nearest targets by cosine.
        pairs: Number of pairs behind the retrieval.
    """

    dim: int
    sides: dict[str, SideStatistics]
    retrieval: dict[str, dict[int, float]] = field(default_factory=dict)
    pairs: int = 0

    @classmethod
    def compute(
        cls,
        source: Embeddings,
        target: Embeddings,
        corrected: Embeddings | Correction | None = None,
        pairs: tuple[Sequence[int], Sequence[int]] | None = None,
        ks: Sequence[int] = (1, 5, 10),
    ) -> GapReport:
        """Measure the gap; streams, so that stores of any size do.

        Args:
            source: Array or tensor `(n, dim)` or a store; text, say.
            target: The same for the modality, `(m, dim)`.
            corrected: The corrected source, row by row, or a fitted correction, which is then applied here (and
                `transform_target` to the target).
            pairs: Positions in source and target that belong together; they are held in memory, so pass some
                thousands. None: no retrieval.
            ks: Cut-offs of the recall.

        Returns:
            The report.

        Raises:
            ValueError: If widths differ, a side is empty or has bad rows, or pairs do not match.
        """
        streams = {"source": RowStream(source, "source"), "target": RowStream(target, "target")}
        moments = {name: unit_moments(stream) for name, stream in streams.items()}
        goal = "target"
        if isinstance(corrected, Correction):
            goal = "transformed target"
            moments["corrected"] = _through(corrected.eval(), streams["source"])
            moments[goal] = _through(corrected.transform_target, streams["target"])
        elif corrected is not None:
            moments["corrected"] = unit_moments(RowStream(corrected, "corrected source"))
        dims = {name: m.dim for name, m in moments.items()}
        if len(set(dims.values())) > 1:
            raise ValueError(f"the sides differ in width: {dims}. Compare embeddings of one contrastive space.")
        centres = {"corrected": goal, "transformed target": goal}
        sides = {
            name: SideStatistics(
                m.count,
                float(m.mean.norm()),
                m.trace,
                centroid_gap(m.mean, moments[centres.get(name, "target")].mean),
            )
            for name, m in moments.items()
        }
        report = cls(moments["source"].dim, sides)
        if pairs is not None:
            report._add_retrieval(source, target, corrected, pairs, ks)
        return report

    def _add_retrieval(
        self,
        source: Embeddings,
        target: Embeddings,
        corrected: Embeddings | Correction | None,
        pairs: tuple[Sequence[int], Sequence[int]],
        ks: Sequence[int],
    ) -> None:
        """Measure recall over the pairs, each row's own target against the targets of all pairs."""
        left, right = (np.asarray(side) for side in pairs)
        if len(left) != len(right) or not len(left):
            raise ValueError(
                f"pairs need as many source as target positions, at least one; got {len(left)} and {len(right)}."
            )
        queries, keys = _rows(source, left), _rows(target, right)
        self.pairs = len(left)
        self.retrieval["source"] = recall_at_k(queries, keys, ks)
        if isinstance(corrected, Correction):
            self.retrieval["corrected"] = recall_at_k(corrected(queries), corrected.transform_target(keys), ks)
        elif corrected is not None:
            self.retrieval["corrected"] = recall_at_k(_rows(corrected, left), keys, ks)

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain values for JSON.

        Returns:
            Nested dicts.
        """
        return asdict(self)

    def to_markdown(self) -> str:
        """Give the report as Markdown tables.

        Returns:
            One table of the sides and, with pairs, one of the retrieval.
        """
        lines = [
            "| side | rows | length of the mean | trace | centroid gap to the target |",
            "|---|---|---|---|---|",
        ]
        for name, s in self.sides.items():
            gap = "" if "target" in name else f"{s.gap:.6f}"
            lines.append(f"| {name} | {s.rows:,} | {s.mean_norm:.4f} | {s.trace:.4f} | {gap} |")
        if self.retrieval:
            ks = list(next(iter(self.retrieval.values())))
            lines += ["", "| retrieval of the target | " + " | ".join(f"recall@{k}" for k in ks) + " |"]
            lines.append("|---" * (len(ks) + 1) + "|")
            for name, recall in self.retrieval.items():
                lines.append(
                    f"| from {name} ({self.pairs:,} pairs) | " + " | ".join(f"{recall[k]:.3f}" for k in ks) + " |"
                )
        return "\n".join(lines)


def _through(function: Any, stream: RowStream) -> Moments:
    """Compute the moments of a function of the rows that gives unit rows."""
    return Moments.of_unit_sum(stream.sum(lambda rows: function(rows).sum(0), "corrected mean"), stream.rows)


def _rows(data: Any, positions: np.ndarray) -> Tensor:
    """Take rows of an array, tensor or store as float32."""
    rows = data[positions] if not isinstance(data, Tensor) else data[torch.as_tensor(positions)]
    return torch.as_tensor(rows).float()
