"""Mean shift: move the source's mean onto the target's."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from hf_modalbridge.corrections.base import Correction
from hf_modalbridge.functional.realign import normalized_affine

__all__ = ["MeanShift"]


class MeanShift(Correction):
    """y^ = N(y - mu_y + mu_x): step 1 of ReAlign alone (arXiv 2602.07026, section 4).

    Normalising after the shift moves the mean again ("phantom drift"), because the residual is not isotropic;
    ReAlign takes that out.
    """

    correction_type: ClassVar[str] = "mean_shift"

    def _transform(self, source: Tensor, out: Tensor | None = None) -> Tensor:
        return normalized_affine(source, 1.0, (self.target_mean - self.source_mean).to(source.dtype), out)
