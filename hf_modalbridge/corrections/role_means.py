"""GR-CLIP: each role loses its own mean."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from torch import Tensor

from hf_modalbridge.corrections.base import Correction
from hf_modalbridge.corrections.statistics import affine_moments
from hf_modalbridge.corrections.streams import RowStream
from hf_modalbridge.functional.geometry import normalize_rows
from hf_modalbridge.functional.moments import Moments
from hf_modalbridge.functional.realign import normalized_affine, unit_affine

__all__ = ["RoleMeans"]


class RoleMeans(Correction):
    """GR-CLIP (arXiv 2507.19054): remove the mean of each embedding's role, N(N(v) - mu_role).

    The roles here are the two sides: `forward` takes the source's mean out and `transform_target` the
    target's. The paper has a mean for each of query text, document text and document image; fit one object for
    each pair of roles. For two roles this is, bit by bit, `C3` without its noise (arXiv 2401.08567): the same
    formula in the same order, found twice. What GR-CLIP adds is `fuse`, for documents of both roles.

    Parts merge exactly (`from_moments`).
    """

    correction_type: ClassVar[str] = "gr"
    merges: ClassVar[bool] = True

    @classmethod
    def from_moments(cls, source: Moments, target: Moments, centred: Moments, **kwargs: Any) -> Self:
        """Build from statistics that were gathered elsewhere, in parts or on several machines.

        Args:
            source: Moments of the unit rows of the source (`unit_moments` of the parts, merged).
            target: Moments of the unit rows of the target.
            centred: Moments of the centred target (`centred_moments` of the parts, merged).
            **kwargs: As for `Correction`, such as the encoders' fingerprints.

        Returns:
            The fitted correction, in eval mode.
        """
        return cls._from_sides(source, target, centred, **kwargs)

    def fuse(self, source: Tensor, target: Tensor, weight: float = 0.5) -> Tensor:
        """Embed documents that have both roles: the blend of both sides less the same blend of their means.

        Args:
            source: `(n, dim)`, such as the texts of the documents.
            target: `(n, dim)`, such as their images.
            weight: Of the source; the paper uses 0.5.

        Returns:
            Unit rows `(n, dim)` in the dtype of `source`.

        Raises:
            ValueError: If shapes differ, or a row is not finite or zero.
        """
        rows, others = self._enter(source, "source embeddings"), self._enter(target, "target embeddings")
        if len(rows) != len(others):
            raise ValueError(
                f"a document to fuse has one row on each side, got {len(rows)} and {len(others)} rows. Pass the "
                "rows of the same documents in the same order."
            )
        left = unit_affine(rows, weight, -weight * self.source_mean.to(rows.dtype))
        right = unit_affine(others, 1 - weight, (weight - 1) * self.target_mean.to(others.dtype))
        return normalize_rows(left + right).to(source.dtype)

    def _transform(self, source: Tensor, out: Tensor | None = None) -> Tensor:
        return normalized_affine(source, 1.0, -self.source_mean.to(source.dtype), out)

    def _transform_target(self, target: Tensor, out: Tensor | None = None) -> Tensor:
        return normalized_affine(target, 1.0, -self.target_mean.to(target.dtype), out)

    def _output_moments(self, target: RowStream) -> Moments:
        return affine_moments(target, 1.0, -self.target_mean, "centred mean")
