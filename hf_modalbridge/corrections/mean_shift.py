"""Mean shift: move the source's mean onto the target's."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from torch import Tensor

from hf_modalbridge.corrections.base import Correction
from hf_modalbridge.functional.moments import Moments
from hf_modalbridge.functional.realign import normalized_affine

__all__ = ["MeanShift"]


class MeanShift(Correction):
    """y^ = N(y - mu_y + mu_x): step 1 of ReAlign alone (arXiv 2602.07026, section 4).

    Normalising after the shift moves the mean again ("phantom drift"), because the residual is not isotropic;
    ReAlign takes that out. Parts merge exactly (`from_moments`).
    """

    correction_type: ClassVar[str] = "mean_shift"
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
        return normalized_affine(source, 1.0, (self.target_mean - self.source_mean).to(source.dtype), out)
