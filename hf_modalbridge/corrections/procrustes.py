"""Orthogonal Procrustes: the rotation that brings paired rows of two sides together."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from hf_modalbridge.corrections.paired import PairedCorrection, paired_covariance
from hf_modalbridge.corrections.streams import RowStream
from hf_modalbridge.functional.covariance import CovarianceMoments
from hf_modalbridge.functional.geometry import normalize_rows
from hf_modalbridge.functional.realign import unit_affine

__all__ = ["Procrustes"]


class Procrustes(PairedCorrection):
    """Rotate the centred source onto the centred target: y^ = N(mu_x + s R (y - mu_y)), fitted on pairs.

    R minimises sum ||(x_i - mu_x) - R (y_i - mu_y)||^2 over orthogonal matrices (Schoenemann 1966): with
    M = Cov(x, y) = A S B^T, R = A B^T. R may reflect. With fewer pairs than dimensions R is not determined by
    them, and with few more it fits their noise; `prior_pairs` stands for that many imagined pairs, spread evenly
    over all directions, whose two sides agree: M <- (n M + k t / dim I) / (n + k), t = sqrt(T_x T_y). That draws R
    to the identity, which is what two towers of one contrastive space start from. The scale, if asked for,
    is the least-squares one, s = tr S / T_y.

    Needs two pairs: one alone has no direction left once the means are taken out. Second moments of the pairs
    are all that it needs: one pass, memory (2 dim)^2, and sets of pairs merge exactly (`from_moments`).

    Args:
        dim: Width of the embeddings.
        scale: Whether to fit a scale; otherwise it is 1.
        prior_pairs: Weight k of the identity; 0 for the plain solution. None: dim.
        **kwargs: As for `Correction`.
    """

    correction_type: ClassVar[str] = "procrustes"
    hyper_parameters: ClassVar[tuple[str, ...]] = ("scale", "prior_pairs")
    merges: ClassVar[bool] = True

    rotation: Tensor
    factor: Tensor

    def __init__(self, dim: int, *, scale: bool = False, prior_pairs: float | None = None, **kwargs: Any) -> None:
        super().__init__(dim, **kwargs)
        if not isinstance(scale, bool):
            raise ValueError(f"scale of Procrustes is True or False, got {scale!r}.")
        if prior_pairs is not None and not 0 <= prior_pairs < float("inf"):
            raise ValueError(f"prior_pairs is a finite number >= 0 or None, got {prior_pairs!r}.")
        self.scale, self.prior_pairs = scale, prior_pairs
        self._add_statistic("rotation", dim, dim)
        self._add_statistic("factor")

    @classmethod
    def from_moments(cls, pairs: CovarianceMoments, **kwargs: Any) -> Self:
        """Build from statistics that were gathered elsewhere, in parts or on several machines.

        Args:
            pairs: `paired_covariance` of the parts, merged: width `2 dim`, source first.
            **kwargs: Hyper-parameters, and as for `Correction`.

        Returns:
            The fitted correction, in eval mode.

        Raises:
            ValueError: If there are fewer than two pairs.
        """
        dim = pairs.dim // 2
        correction = cls(dim, source_rows=pairs.count, target_rows=pairs.count, **kwargs)
        correction._fill(pairs)
        return correction.eval()

    def _fit(self, source: RowStream, target: RowStream, generator: torch.Generator, **options: Any) -> None:
        self._check_pairs(source.rows)
        self._fill(paired_covariance(source, target))

    def _fill(self, pairs: CovarianceMoments) -> None:
        self._check_pairs(pairs.count)
        dim = self.dim
        sides = pairs.marginal(0, dim).moments, pairs.marginal(dim, 2 * dim).moments
        for side, moments in zip(("source", "target", "output"), (*sides, sides[1]), strict=True):
            self._set(side, moments)
        prior = dim if self.prior_pairs is None else self.prior_pairs
        level = (sides[0].trace * sides[1].trace) ** 0.5 / dim
        cross = pairs.count * pairs.covariance[dim:, :dim] + prior * level * torch.eye(dim, dtype=torch.float64)
        left, values, right = torch.linalg.svd(cross / (pairs.count + prior))
        self.rotation.copy_(left @ right)
        self.factor.fill_(float(values.sum()) / max(sides[0].trace, 1e-12) if self.scale else 1.0)

    def _transform(self, source: Tensor, out: Tensor | None = None) -> Tensor:
        mean_y, mean_x = self.source_mean.to(source.dtype), self.target_mean.to(source.dtype)
        matrix = (self.factor * self.rotation).to(source.dtype)
        return normalize_rows(torch.addmm(mean_x, unit_affine(source, 1.0, -mean_y), matrix.T), out=out)
