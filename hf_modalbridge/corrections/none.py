"""No correction: the comparison that every correction has to beat."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from torch import Tensor

from hf_modalbridge.corrections.base import Correction
from hf_modalbridge.functional.geometry import normalize_rows
from hf_modalbridge.functional.moments import Moments

__all__ = ["NoCorrection"]


class NoCorrection(Correction):
    """Pass source embeddings through as unit rows; only the statistics for `standardize` are fitted.

    Parts merge exactly (`from_moments`).
    """

    correction_type: ClassVar[str] = "none"
    merges: ClassVar[bool] = True

    @classmethod
    def from_moments(cls, source: Moments, target: Moments, **kwargs: Any) -> Self:
        """Build from statistics that were gathered elsewhere, in parts or on several machines.

        Args:
            source: Moments of the unit rows of the source (`unit_moments` of the parts, merged).
            target: Moments of the unit rows of the target.
            **kwargs: As for `Correction`, such as the encoders' fingerprints.

        Returns:
            The fitted correction, in eval mode.
        """
        return cls._from_sides(source, target, **kwargs)

    def _transform(self, source: Tensor, out: Tensor | None = None) -> Tensor:
        return normalize_rows(source, out=out)
