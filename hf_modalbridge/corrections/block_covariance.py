"""Block-wise covariance matching, the baseline of ReAlign's paper, as printed and in a fair form."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from hf_modalbridge.corrections.base import Correction
from hf_modalbridge.corrections.statistics import unit_covariance
from hf_modalbridge.corrections.streams import RowStream
from hf_modalbridge.functional.covariance import CovarianceMoments, symmetric_power
from hf_modalbridge.functional.frame import residual_frame
from hf_modalbridge.functional.geometry import normalize_rows
from hf_modalbridge.functional.moments import Moments
from hf_modalbridge.functional.realign import normalized_affine, unit_affine

__all__ = ["BlockCovariance"]

Variant = Literal["centered", "published"]
_PRINTED_RIDGE = 1e-6


class BlockCovariance(Correction):
    """Match the covariance in two blocks of a common frame (BC, arXiv 2602.07026, table 3 and its appendix).

    With y, x unit rows of source and target, U the top eigenvectors of Sigma_x + Sigma_y and V the rest, and
    in each block B the transport T_B = Sigma_x,B^(1/2) Sigma_y,B^(-1/2), T = U T_U U^T + V T_V V^T:

        published:  e2 = N(T N(y - mu_y + mu_x))     as printed: T also acts on the mean, and whitens it
        centered:   e2 = N(mu_x + T (y - mu_y))      fair: only deviations are transported
        y^ = N(e2 - mean of e2 over the source + mu_x);  the target stays as it is

    With `centered` and without a ridge, T (y - mu_y) has the target's covariance inside either block. Nothing
    ties T to the semantics of a row; the paper finds 10 % of neighbours kept, where ReAlign keeps 87 %.

    Memory is dim x dim, the fit passes twice over the source and once over the target, and applying costs
    dim^2 a row. Parts merge exactly (`from_moments`).

    Args:
        dim: Width of the embeddings.
        variant: "centered" or "published".
        energy: Share of the trace of Sigma_x + Sigma_y that the block U holds; the paper has a threshold but
            not its value.
        rank: Width of the block U instead; None follows `energy`.
        ridge: Added to the covariances of both sides, as a share of their mean eigenvalue. None: dim / rows of
            the smaller side for "centered", which fades as the covariances become known, and for "published"
            1e-6, which only keeps the inverse finite.
        **kwargs: As for `Correction`.
    """

    correction_type: ClassVar[str] = "block_covariance"
    hyper_parameters: ClassVar[tuple[str, ...]] = ("variant", "energy", "rank", "ridge")
    merges: ClassVar[bool] = True

    transport: Tensor
    drift_mean: Tensor

    def __init__(
        self,
        dim: int,
        *,
        variant: Variant = "centered",
        energy: float = 0.9,
        rank: int | None = None,
        ridge: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(dim, **kwargs)
        if variant not in ("centered", "published"):
            raise ValueError(f"variant of BlockCovariance is 'centered' or 'published', got {variant!r}.")
        if not 0 < energy <= 1:
            raise ValueError(f"energy is a share of the trace, above 0 and at most 1; got {energy!r}.")
        if rank is not None and not 1 <= rank <= dim:
            raise ValueError(f"rank of the block U is between 1 and the width {dim}, or None; got {rank!r}.")
        if ridge is not None and not 0 <= ridge < float("inf"):
            raise ValueError(f"ridge is a finite number >= 0 or None, got {ridge!r}.")
        self.variant, self.energy, self.rank, self.ridge = variant, energy, rank, ridge
        self._add_statistic("transport", dim, dim)
        self._add_statistic("drift_mean", dim)

    @classmethod
    def from_moments(
        cls, source: CovarianceMoments, target: CovarianceMoments, drift: Moments | None = None, **kwargs: Any
    ) -> Self:
        """Build from statistics that were gathered elsewhere, in parts or on several machines.

        Build it without `drift` first, gather `drift_moments` of the parts of the source with that, merge them
        and build it again with the result.

        Args:
            source: Covariance of the unit rows of the source (`unit_covariance` of the parts, merged).
            target: Covariance of the unit rows of the target.
            drift: Moments of e2 over the source, or None for a correction that lacks its final step.
            **kwargs: Hyper-parameters, and as for `Correction`.

        Returns:
            The fitted correction, in eval mode.
        """
        correction = cls._from_sides(source.moments, target.moments, **kwargs)
        correction.transport.copy_(correction._transport(source.covariance, target.covariance))
        correction.drift_mean.copy_(target.mean if drift is None else drift.mean)
        return correction

    def drift_moments(self, data: Any) -> Moments:
        """Compute the moments of e2 over a part of the source.

        Args:
            data: Array or tensor `(n, dim)`, an `EmbeddingStore`, a list of such parts, or a `RowStream`.

        Returns:
            Moments whose mean, merged over all parts, is the mean that the final step takes out.
        """
        stream = data if isinstance(data, RowStream) else RowStream(data)
        total = stream.sum(lambda rows: self._moved(rows).sum(0), "drift")
        return Moments.of_unit_sum(total, stream.rows)

    def _fit(self, source: RowStream, target: RowStream, generator: torch.Generator, **options: Any) -> None:
        sides = unit_covariance(source), unit_covariance(target)
        self._set("source", sides[0].moments)
        self._set("target", sides[1].moments)
        self._set("output", sides[1].moments)
        self.transport.copy_(self._transport(sides[0].covariance, sides[1].covariance))
        self.drift_mean.copy_(self.drift_moments(source).mean)

    def _transport(self, source: Tensor, target: Tensor) -> Tensor:
        """Compute T from both covariances, float64."""
        vectors, values = residual_frame(source, target, self.dim, ridge=0)
        share = values.clamp_min(0).cumsum(0) / values.clamp_min(0).sum()
        rank = self.rank or min(self.dim, int((share < self.energy).sum()) + 1)
        by_rows = self.dim / min(self.source_rows, self.target_rows)
        default = by_rows if self.variant == "centered" else _PRINTED_RIDGE
        relative = default if self.ridge is None else self.ridge
        transport = torch.zeros_like(source)
        for block in (vectors[:, :rank], vectors[:, rank:]):
            if not block.shape[1]:
                continue
            inside = torch.eye(block.shape[1], dtype=torch.float64)
            of_source, of_target = (
                block.T @ side @ block + relative * side.trace() / self.dim * inside for side in (source, target)
            )
            transport += block @ symmetric_power(of_target, 0.5) @ symmetric_power(of_source, -0.5) @ block.T
        return transport

    def _moved(self, source: Tensor) -> Tensor:
        """Compute e2 of checked rows."""
        transport = self.transport.to(source.dtype)
        mean_y, mean_x = self.source_mean.to(source.dtype), self.target_mean.to(source.dtype)
        if self.variant == "published":
            return normalize_rows(normalized_affine(source, 1.0, mean_x - mean_y) @ transport.T)
        return normalize_rows(torch.addmm(mean_x, unit_affine(source, 1.0, -mean_y), transport.T))

    def _transform(self, source: Tensor, out: Tensor | None = None) -> Tensor:
        shift = (self.target_mean - self.drift_mean).to(source.dtype)
        return normalize_rows(self._moved(source) + shift, out=out)

    def extra_repr(self) -> str:
        """Show the variant when the module is printed."""
        return f"{super().extra_repr()}, variant={self.variant}"
