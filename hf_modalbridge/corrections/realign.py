"""ReAlign (arXiv 2602.07026): anchor, trace and centroid alignment, in closed form."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from hf_modalbridge.corrections.base import Correction
from hf_modalbridge.corrections.statistics import affine_moments
from hf_modalbridge.corrections.streams import RowStream
from hf_modalbridge.functional.moments import Moments
from hf_modalbridge.functional.realign import realign, realign_scale

__all__ = ["ReAlign"]


class ReAlign(Correction):
    """Move text embeddings onto a modality's distribution (arXiv 2602.07026, section 4).

    With y, x unit rows of source and target, mu means, T traces of the covariances, N(v) = v / ||v||:

        s   = sqrt(T_x / (T_y + 1e-10)),  T = 1 - ||mu||^2 for unit rows
        e'  = N(mu_x + s (y - mu_y))      steps 1 and 2, anchor and trace
        mu' = mean of e' over the source
        y^  = N(e' - mu' + mu_x)          step 3, centroid;  the target stays as it is

    The fit passes twice over the source (mu_y, then mu') and once over the target. Parts merge exactly
    (`from_moments`).
    """

    correction_type: ClassVar[str] = "realign"
    merges: ClassVar[bool] = True

    scale: Tensor
    drift_mean: Tensor

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(dim, **kwargs)
        self._add_statistic("scale")
        self._add_statistic("drift_mean", dim)

    @classmethod
    def from_moments(cls, source: Moments, target: Moments, drift: Moments, **kwargs: Any) -> Self:
        """Build from statistics that were gathered elsewhere, in parts or on several machines.

        Args:
            source: Moments of the unit rows of the source (`unit_moments` of the parts, merged).
            target: Moments of the unit rows of the target.
            drift: Moments of e' over the source (`drift_moments` of the parts, merged).
            **kwargs: As for `Correction`, such as the encoders' fingerprints.

        Returns:
            The fitted correction, in eval mode.
        """
        correction = cls._from_sides(source, target, **kwargs)
        correction.scale.fill_(realign_scale(source.trace, target.trace))
        correction.drift_mean.copy_(drift.mean)
        return correction

    def _fit_statistics(self, source: RowStream, generator: torch.Generator) -> None:
        self.scale.fill_(realign_scale(float(self.source_trace), float(self.target_trace)))
        self.drift_mean.copy_(affine_moments(source, float(self.scale), self._anchor(), "drift").mean)

    def _anchor(self) -> Tensor:
        """C = mu_x - s mu_y, in float64."""
        return self.target_mean - self.scale * self.source_mean

    def _transform(self, source: Tensor, out: Tensor | None = None) -> Tensor:
        scale = self.scale.to(source.dtype)
        return realign(source, self.source_mean, self.target_mean, scale, self.drift_mean, out)
