"""No correction: the comparison that every correction has to beat."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from hf_modalbridge.corrections.base import Correction
from hf_modalbridge.functional.geometry import normalize_rows

__all__ = ["NoCorrection"]


class NoCorrection(Correction):
    """Pass source embeddings through as unit rows; only the statistics for `standardize` are fitted."""

    correction_type: ClassVar[str] = "none"

    def _transform(self, source: Tensor, out: Tensor | None = None) -> Tensor:
        return normalize_rows(source, out=out)
