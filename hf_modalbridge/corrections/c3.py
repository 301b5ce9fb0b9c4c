"""C3 (Connect, Collapse, Corrupt; arXiv 2401.08567) in its two published variants."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from hf_modalbridge.corrections.base import Correction
from hf_modalbridge.corrections.statistics import affine_moments
from hf_modalbridge.corrections.streams import RowStream
from hf_modalbridge.functional.geometry import normalize_rows
from hf_modalbridge.functional.moments import Moments
from hf_modalbridge.functional.realign import normalized_affine, unit_affine

__all__ = ["C3", "C3Shift"]


class _Noisy(Correction):
    """A shift, then isotropic noise in training."""

    hyper_parameters: ClassVar[tuple[str, ...]] = ("noise_norm",)
    merges: ClassVar[bool] = True

    def __init__(self, dim: int, *, noise_norm: float = 0.0, **kwargs: Any) -> None:
        super().__init__(dim, **kwargs)
        if not 0 <= noise_norm < float("inf"):
            raise ValueError(f"noise_norm is sigma * sqrt(dim), a finite number >= 0; got {noise_norm!r}.")
        self.noise_norm = float(noise_norm)

    @property
    def noise_sigma(self) -> float:
        """Standard deviation of the noise in each dimension, noise_norm / sqrt(dim)."""
        return self.noise_norm / self.dim**0.5

    def forward(self, source: Tensor, noise: bool | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Move source embeddings, with noise in training.

        Args:
            source: `(n, dim)` floating point; rows are normalised first.
            noise: Whether to add noise; by default in training mode only.
            generator: Source of the noise; the global one by default.

        Returns:
            Unit rows `(n, dim)` in the dtype of `source`.

        Raises:
            ValueError: If the width is wrong, or a row is not finite or zero.
        """
        if not (self.training if noise is None else noise) or not self.noise_norm:
            return super().forward(source)
        rows = self._enter(source, "source embeddings")
        draw = torch.randn(rows.shape, generator=generator, device=rows.device, dtype=rows.dtype)
        moved = unit_affine(rows, 1.0, self._shift().to(rows.dtype)) + self.noise_sigma * draw
        return normalize_rows(moved).to(source.dtype)

    def _transform(self, source: Tensor, out: Tensor | None = None) -> Tensor:
        return normalized_affine(source, 1.0, self._shift().to(source.dtype), out)

    def _shift(self) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Show the noise when the module is printed."""
        return f"{super().extra_repr()}, noise_norm={self.noise_norm}"


class C3(_Noisy):
    """C3 as released: each side loses its own mean (arXiv 2401.08567, section 4).

    Training: y^ = N(N(y) - mu_y + n), n ~ N(0, sigma^2 I). Inference: x^ = N(N(x) - mu_x). Both sides end
    around the origin; a real target embedding is therefore centred by `transform_target`. Parts merge exactly
    (`from_moments`).

    Args:
        dim: Width of the embeddings.
        noise_norm: sigma * sqrt(dim), the typical length of the noise, comparable across widths. The release
            has sigma^2 = 0.016 at width 512, a norm of 2.86, which is the default; 0.25 and 0.72 fit numbers
            that later papers report for C3.
        **kwargs: As for `Correction`.
    """

    correction_type: ClassVar[str] = "c3"

    def __init__(self, dim: int, *, noise_norm: float = 2.86, **kwargs: Any) -> None:
        super().__init__(dim, noise_norm=noise_norm, **kwargs)

    @classmethod
    def from_moments(cls, source: Moments, target: Moments, centred: Moments, **kwargs: Any) -> Self:
        """Build from statistics that were gathered elsewhere, in parts or on several machines.

        Args:
            source: Moments of the unit rows of the source (`unit_moments` of the parts, merged).
            target: Moments of the unit rows of the target.
            centred: Moments of the centred target (`centred_moments` of the parts, merged).
            **kwargs: `noise_norm`, and as for `Correction`.

        Returns:
            The fitted correction, in eval mode.
        """
        return cls._from_sides(source, target, centred, **kwargs)

    def _shift(self) -> Tensor:
        return -self.source_mean

    def _transform_target(self, target: Tensor, out: Tensor | None = None) -> Tensor:
        return normalized_affine(target, 1.0, -self.target_mean.to(target.dtype), out)

    def _output_moments(self, target: RowStream) -> Moments:
        return affine_moments(target, 1.0, -self.target_mean, "centred mean")


class C3Shift(_Noisy):
    """C3 as later papers describe it, a shift onto the target's mean (arXiv 2605.07825, appendix B.3).

    Training: y^ = N(N(y) - mu_y + mu_x + n), n ~ N(0, sigma^2 I). The target stays as it is. Parts
    merge exactly (`from_moments`).

    Args:
        dim: Width of the embeddings.
        noise_norm: sigma * sqrt(dim). The default 0.72 is sigma = 0.02 at width 1280, which the centroid gaps
            printed in arXiv 2602.07026 point to; the papers do not state it.
        **kwargs: As for `Correction`.
    """

    correction_type: ClassVar[str] = "c3_shift"

    def __init__(self, dim: int, *, noise_norm: float = 0.72, **kwargs: Any) -> None:
        super().__init__(dim, noise_norm=noise_norm, **kwargs)

    @classmethod
    def from_moments(cls, source: Moments, target: Moments, **kwargs: Any) -> Self:
        """Build from statistics that were gathered elsewhere, in parts or on several machines.

        Args:
            source: Moments of the unit rows of the source (`unit_moments` of the parts, merged).
            target: Moments of the unit rows of the target.
            **kwargs: `noise_norm`, and as for `Correction`.

        Returns:
            The fitted correction, in eval mode.
        """
        return cls._from_sides(source, target, **kwargs)

    def _shift(self) -> Tensor:
        return self.target_mean - self.source_mean
