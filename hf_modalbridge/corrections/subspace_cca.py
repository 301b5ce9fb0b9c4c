"""Subspace CCA and an affine map: from the source to what it shares with the target, and back to full width."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from hf_modalbridge.corrections.paired import PairedCorrection, paired_covariance
from hf_modalbridge.corrections.streams import RowStream
from hf_modalbridge.functional.covariance import CovarianceMoments, symmetric_power
from hf_modalbridge.functional.geometry import normalize_rows
from hf_modalbridge.functional.realign import unit_affine

__all__ = ["SubspaceCCA"]


class SubspaceCCA(PairedCorrection):
    """Canonical subspace and affine least squares, after arXiv 2503.05283, fitted on pairs.

    The paper projects both sides to the k directions of canonical correlation, y^r = W_Y^T (y - mu_y), and maps
    one to the other by an affine T; its matches stay inside those k coordinates. A connector needs a
    target-side vector of full width, so here T goes from y^r straight to the whole target space:

        W_Y = (Sigma_y + rho_y I)^(-1/2) A_k,   A S C^T = (Sigma_y + rho_y I)^(-1/2) Sigma_yx (Sigma_x + rho_x I)^(-1/2)
        B   = argmin_B sum ||(x_i - mu_x) - B W_Y^T (y_i - mu_y)||^2 = Sigma_xy W_Y (W_Y^T Sigma_y W_Y)^(-1)
        y^  = N(mu_x + B W_Y^T (y - mu_y) + [residual] (y - mu_y - F W_Y^T (y - mu_y)))

    Without `residual` every y^ lies, before N, in a k-dimensional plane through mu_x: what the k coordinates do
    not predict is gone, and the cloud is flatter than the target's. With it, the part of y that its own k
    coordinates do not explain (F is the least-squares map from them back to y) is carried over unchanged.

    Needs k + 2 pairs: k + 1 give the k centred coordinates full rank, and one more keeps the least squares
    from passing through every pair. Second moments of the pairs are all that it needs: one pass, memory
    (2 dim)^2, and sets of pairs merge exactly (`from_moments`).

    Args:
        dim: Width of the embeddings.
        components: k; the paper uses 50. None: 50, or less where the width or the pairs allow no more.
        ridge: rho as a share of the mean eigenvalue of each side's covariance. CCA needs one where pairs are
            not many times the width: without it, noise correlates perfectly.
        residual: Whether to carry over what the k coordinates do not explain; False is nearest to the paper.
        **kwargs: As for `Correction`.
    """

    correction_type: ClassVar[str] = "subspace_cca"
    hyper_parameters: ClassVar[tuple[str, ...]] = ("components", "ridge", "residual")
    merges: ClassVar[bool] = True

    matrix: Tensor

    def __init__(
        self, dim: int, *, components: int | None = None, ridge: float = 1.0, residual: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(dim, **kwargs)
        if components is not None and not 1 <= components <= dim:
            raise ValueError(
                f"components of SubspaceCCA is between 1 and the width {dim}, or None; got {components!r}."
            )
        if not 0 <= ridge < float("inf"):
            raise ValueError(f"ridge is a finite number >= 0, got {ridge!r}.")
        if not isinstance(residual, bool):
            raise ValueError(f"residual of SubspaceCCA is True or False, got {residual!r}.")
        self.components, self.ridge, self.residual = components, ridge, residual
        self._add_statistic("matrix", dim, dim)

    @classmethod
    def from_moments(cls, pairs: CovarianceMoments, **kwargs: Any) -> Self:
        """Build from statistics that were gathered elsewhere, in parts or on several machines.

        Args:
            pairs: `paired_covariance` of the parts, merged: width `2 dim`, source first.
            **kwargs: Hyper-parameters, and as for `Correction`.

        Returns:
            The fitted correction, in eval mode.

        Raises:
            ValueError: If there are too few pairs.
        """
        correction = cls(pairs.dim // 2, source_rows=pairs.count, target_rows=pairs.count, **kwargs)
        correction._fill(pairs)
        return correction.eval()

    def _fit(self, source: RowStream, target: RowStream, generator: torch.Generator, **options: Any) -> None:
        self._check_pairs(source.rows)
        self._fill(paired_covariance(source, target))

    def _least_pairs(self) -> int:
        return 2 + (self.components or 1)

    def _why_least(self) -> str:
        return f"{self.components or 1} centred coordinates and one pair more than they can pass through."

    def _fill(self, pairs: CovarianceMoments) -> None:
        self._check_pairs(pairs.count)
        dim = self.dim
        sides = pairs.marginal(0, dim), pairs.marginal(dim, 2 * dim)
        for side, part in zip(("source", "target", "output"), (*sides, sides[1]), strict=True):
            self._set(side, part.moments)
        k = self.components or min(50, dim, pairs.count - 2)
        cross = pairs.covariance[:dim, dim:]  # Sigma_yx
        weights, _, _ = canonical_directions(sides[0].covariance, sides[1].covariance, cross, self.ridge, k)
        covariance = sides[0].covariance
        inner = torch.linalg.pinv(weights.T @ covariance @ weights, hermitian=True)  # (k, k)
        matrix = cross.T @ weights @ inner @ weights.T
        if self.residual:
            matrix += torch.eye(dim, dtype=torch.float64) - covariance @ weights @ inner @ weights.T
        self.matrix.copy_(matrix)

    def _transform(self, source: Tensor, out: Tensor | None = None) -> Tensor:
        mean_y, mean_x = self.source_mean.to(source.dtype), self.target_mean.to(source.dtype)
        matrix = self.matrix.to(source.dtype)
        return normalize_rows(torch.addmm(mean_x, unit_affine(source, 1.0, -mean_y), matrix.T), out=out)


def canonical_directions(
    source: Tensor, target: Tensor, cross: Tensor, ridge: float, components: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute regularised canonical directions from second moments, in float64.

    Args:
        source: Covariance `(dim, dim)` of y.
        target: Covariance of x.
        cross: Covariance of y with x, `(dim, dim)`.
        ridge: As a share of the mean eigenvalue of each side.
        components: k.

    Returns:
        W_Y `(dim, k)`, W_X `(dim, k)` and the k (regularised) canonical correlations, largest first.
    """
    whiten = []
    for side in (source, target):
        floor = ridge * side.trace() / len(side) * torch.eye(len(side), dtype=torch.float64)
        whiten.append(symmetric_power(side + floor, -0.5, floor=1e-12))
    left, values, right = torch.linalg.svd(whiten[0] @ cross @ whiten[1])
    return whiten[0] @ left[:, :components], whiten[1] @ right[:components].T, values[:components]
