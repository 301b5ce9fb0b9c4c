"""AnisoAlign (arXiv 2605.07825): a bounded correction in the directions where the gap's residual is large."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from hf_modalbridge.corrections.aniso_config import AnisoConfig
from hf_modalbridge.corrections.aniso_networks import RefinementNet
from hf_modalbridge.corrections.base import Correction
from hf_modalbridge.corrections.streams import BATCH_ROWS, Embeddings, RowStream
from hf_modalbridge.functional.aniso_bound import block_move_bound, cosine_change_bound, paper_cosine_change_bound
from hf_modalbridge.functional.block_polar import block_directions, radial_transfer, turned
from hf_modalbridge.functional.frame import orthogonal_complement
from hf_modalbridge.functional.geometry import normalize_rows
from hf_modalbridge.functional.phase_graph import PhaseGraph
from hf_modalbridge.functional.realign import normalized_affine

__all__ = ["AnisoAlign", "StartState"]

_THREAD_ROWS = 1024  # rows at once for each thread: enough for the matrix products, and their memory stays in the cache
_MOST_ROWS = 16_384  # at once, so that memory is small beside the result's


class StartState(NamedTuple):
    """The initialised state (section 4.4): e0 = Q_U c(rho0, theta0) + v0.

    Attributes:
        rho: rho0 `(n, m)`.
        cosine: cos theta0 `(n, m)`.
        sine: sin theta0 `(n, m)`.
        v: v0 `(n, dim)`.
    """

    rho: Tensor
    cosine: Tensor
    sine: Tensor
    v: Tensor


class _Product(NamedTuple):
    """e0 = offset + scale y, and y weight + bias = [c0, what the first layer reads of v0] for unit rows y."""

    scale: Tensor  # (dim,)
    offset: Tensor  # (dim,)
    weight: Tensor  # (dim, 2 m + width)
    bias: Tensor  # (2 m + width,)


class AnisoAlign(Correction):
    """Move text embeddings onto a modality's distribution by AnisoAlign (arXiv 2605.07825, section 4).

    With y unit rows of the source, mu means, Q_U the frame, N(v) = v / ||v||:

        e0  = Q_U c(rho0, theta0) + v0                     the initialised state
        theta^ = wrap(theta0 + a_theta tanh(dtheta)),  rho^ = rho0 exp(a_rho tanh(drho)),
        v^  = v0 + a_v tanh(dv_V),  dv_V = dv - Q_U Q_U^T dv,  (dtheta, drho, dv) = g_eta(state)
        e'  = N(Q_U c(rho^, theta^) + v^),  mu^ = mean of e' over the source
        e   = N(e' - mu^ + mu_x);  the target stays as it is

    The network g_eta learns from a score network that saw target phases alone, without pairs; it can move a
    state by no more than `bound` says, whatever its weights. Hyper-parameters are those of `AnisoConfig`.

    The score network is not part of the correction; `fit(checkpoint_dir=...)` keeps it. Fits do not merge: the
    networks depend on all rows together, so new data mean a new fit over all of it (`fit` takes lists of parts).

    Args:
        dim: Width of the embeddings.
        **kwargs: Hyper-parameters, and as for `Correction`.
    """

    correction_type: ClassVar[str] = "aniso_align"
    hyper_parameters: ClassVar[tuple[str, ...]] = AnisoConfig.names()
    fit_options: ClassVar[tuple[str, ...]] = ("checkpoint_dir", "device")

    frame: Tensor
    start_scale: Tensor
    source_knots: Tensor
    target_knots: Tensor
    log_rho_mean: Tensor
    log_rho_std: Tensor
    phase_mean: Tensor
    energy_share: Tensor
    edge_weight: Tensor
    edge_offset: Tensor
    drift_mean: Tensor
    least_start: Tensor
    largest_inside: Tensor

    def __init__(self, dim: int, **kwargs: Any) -> None:
        chosen = {name: kwargs.pop(name) for name in AnisoConfig.names() if name in kwargs}
        super().__init__(dim, **kwargs)
        self.config = AnisoConfig(**chosen).resolve(dim)
        m = self.config.blocks
        knots = self.config.quantile_knots if self.config.start == "quantile" else 0
        self._add_statistic("frame", dim, 2 * m)
        self._add_statistic("start_scale", dim)
        for name in ("source_knots", "target_knots"):
            self._add_statistic(name, m, knots)
        for name in ("log_rho_mean", "log_rho_std", "phase_mean", "energy_share"):
            self._add_statistic(name, m)
        for name in ("edge_weight", "edge_offset"):
            self._add_statistic(name, m, m)
        self._add_statistic("drift_mean", dim)
        self._add_statistic("least_start")
        self._add_statistic("largest_inside")
        self.refinement = RefinementNet(m, dim, self.config.refine_width, self.config.refine_layers)
        self.history: dict[str, list[dict[str, float]]] = {}

    def __getattr__(self, name: str) -> Any:
        """Give hyper-parameters as attributes, as other corrections have them."""
        if name in AnisoConfig.names():
            return getattr(self.__dict__["config"], name)
        return super().__getattr__(name)

    @classmethod
    def fit(
        cls,
        source: Embeddings | Sequence[Embeddings],
        target: Embeddings | Sequence[Embeddings],
        *,
        seed: int = 0,
        batch_size: int = BATCH_ROWS,
        progress: bool = False,
        source_encoder: Mapping[str, Any] | None = None,
        target_encoder: Mapping[str, Any] | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        **hyper: Any,
    ) -> Self:
        """Fit on unpaired embeddings: statistics by streaming, then the two stages of training.

        Memory is bounded: means, covariances, the phase graph and the final centroid go over all rows block by
        block in float64, and `sample_rows` uniformly drawn rows of each side are held for training, quantile
        knots and R. One seed on one machine with one number of threads gives one result on the CPU.

        Args:
            source: Array or tensor `(n, dim)`, an `EmbeddingStore`, or a list of such parts.
            target: The same, `(m, dim)`.
            seed: Of all random numbers.
            batch_size: Rows read at once.
            progress: Whether to show progress bars.
            source_encoder: Fingerprint of the source's encoder; a store brings its own.
            target_encoder: The same for the target.
            checkpoint_dir: Where both stages leave checkpoints (safetensors and JSON), the score network among
                them. A fit that was stopped goes on from there when called again in the same way.
            device: Where the networks train; a GPU if there is one, else the CPU.
            **hyper: Fields of `AnisoConfig`.

        Returns:
            The fitted correction on the CPU, in eval mode; `history` holds the losses of both stages.

        Raises:
            ValueError: If a side is empty, the widths differ, a row is not finite or zero, a hyper-parameter is
                out of range, or the checkpoints are of another fit.
            TypeError: If a hyper-parameter is unknown.
        """
        return super().fit(
            source,
            target,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
            source_encoder=source_encoder,
            target_encoder=target_encoder,
            checkpoint_dir=checkpoint_dir,
            device=device,
            **hyper,
        )

    def _fit(
        self,
        source: RowStream,
        target: RowStream,
        generator: torch.Generator,
        *,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        **options: Any,
    ) -> None:
        from hf_modalbridge.corrections.aniso_fit import fit_aniso

        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        folder = Path(checkpoint_dir) if checkpoint_dir is not None else None
        fit_aniso(self, source, target, generator, folder, chosen)

    @classmethod
    def from_moments(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse: unlike ReAlign, this correction is not made of moments that merge.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "AnisoAlign cannot be built from merged moments: its networks depend on all rows together. Fit it "
            "again over all parts, AnisoAlign.fit([part, part, ...], [part, ...])."
        )

    @property
    def graph(self) -> PhaseGraph:
        """The phase graph of the target (section 4.3)."""
        return PhaseGraph(self.phase_mean, self.energy_share, self.edge_weight, self.edge_offset)

    def initialise(self, source: Tensor) -> StartState:
        """Compute the initialised state (section 4.4), or ReAlign's step 2 in the same coordinates.

        Args:
            source: Unit rows `(n, dim)`, float32 or float64.

        Returns:
            The state.
        """
        frame, scale = self.frame.to(source.dtype), self.start_scale.to(source.dtype)
        source_mean, target_mean = self.source_mean.to(source.dtype), self.target_mean.to(source.dtype)
        if self.config.start == "realign":
            moved = torch.addcmul(target_mean - scale * source_mean, scale, source)  # e2 = mu_i + s (y - mu_t)
            c = moved @ frame
            return StartState(*block_directions(c), torch.addmm(moved, c, frame.T, alpha=-1))
        centred = source - source_mean
        inside = centred @ frame
        rho, cosine, sine = block_directions(inside + target_mean @ frame)  # of ybar = y - mu_t + mu_i
        if self.config.blocks:
            rho = radial_transfer(rho, self.source_knots, self.target_knots)
        v = orthogonal_complement(target_mean, frame) + scale * (centred - inside @ frame.T)
        return StartState(rho, cosine, sine, orthogonal_complement(v, frame) if self.config.reproject else v)

    def refine(self, state: StartState, project: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the bounded refinement of a state (section 4.4).

        Args:
            state: From `initialise`.
            project: Whether dv still has to be projected onto V; after the fit the network's weights are.

        Returns:
            The turns theta^ - theta0 `(n, m)` before wrapping, rho^ `(n, m)` and v^ `(n, dim)`.
        """
        sine, cosine, log_rho = state.sine, state.cosine, self.standard_log(state.rho)
        turn, stretch, rest = self.refinement.refine(sine, cosine, log_rho, state.v)
        if project:
            rest = orthogonal_complement(rest, self.frame.to(rest.dtype))
        turn, rho, moved = self._bounded(state.rho, turn, stretch, rest)
        return turn, rho, state.v + moved

    def _bounded(self, rho: Tensor, turn: Tensor, stretch: Tensor, rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bound what the network says: a_theta tanh(dtheta), rho^, and a_v tanh(dv_V)."""
        config = self.config
        if config.v_norm == "clip":
            lengths = torch.linalg.vector_norm(rest, dim=-1, keepdim=True)
            moved = rest * (config.v_bound / lengths.clamp_min(1e-12)).clamp_max(1.0)
        else:
            length = config.v_bound / self.dim**0.5
            moved = rest.tanh() * length if rest.requires_grad else rest.tanh_().mul_(length)
        if config.reproject:
            moved = orthogonal_complement(moved, self.frame.to(moved.dtype))
        return config.a_theta * turn.tanh(), rho * (config.a_rho * stretch.tanh()).exp(), moved

    def compose(self, state: StartState, turn: Tensor, rho: Tensor, v: Tensor) -> Tensor:
        """Compute Q_U c(rho, theta0 + turn) + v, not normalised.

        Args:
            state: From `initialise`.
            turn: `(n, m)` rad.
            rho: `(n, m)`.
            v: `(n, dim)`.

        Returns:
            `(n, dim)`.
        """
        c = turned(rho, state.cosine, state.sine, turn)
        return torch.addmm(v, c, self.frame.to(c.dtype).T)

    def initial(self, source: Tensor) -> Tensor:
        """Compute the initialised state as vectors e0, which the bound is relative to.

        Args:
            source: `(n, dim)`; rows are normalised first.

        Returns:
            e0 `(n, dim)`, not normalised.
        """
        state = self.initialise(normalize_rows(self._enter(source, "source embeddings")))
        return self.compose(state, torch.zeros_like(state.rho), state.rho, state.v)

    def refined(self, source: Tensor) -> Tensor:
        """Compute e' before its normalisation: the state after the bounded refinement.

        Args:
            source: `(n, dim)`; rows are normalised first.

        Returns:
            `(n, dim)`, not normalised.
        """
        return self._refined(normalize_rows(self._enter(source, "source embeddings")))

    def bound(self, source: Tensor | None = None) -> dict[str, Any]:
        """State how far the refinement can move an initialised state, whatever the network's weights.

        Holds by construction, row by row: ||e^ - e0|| <= kappa ||Q_U c0|| + beta_v (appendix A.7). It is about the
        states before the final centroid step, which moves all rows by one vector.

        Args:
            source: `(n, dim)`, to bound these rows; by default any row of the corpus of the fit.

        Returns:
            `kappa`, the largest relative change of the part in the frame; `beta_v`, the largest length of the
            change outside; `epsilon`, the largest change relative to the length of the state; `cosine_change`,
            the largest change of a cosine between two states, 2 epsilon, and `paper_cosine_change`, the
            paper's looser 4 epsilon / (1 - epsilon). The last three are `(n,)` tensors if rows are given, else
            floats; a cosine never changes by more than 2.
        """
        kappa, beta = block_move_bound(self.config.a_theta, self.config.a_rho), self.config.v_bound
        if source is None:
            epsilon = kappa * float(self.largest_inside) + beta / float(self.least_start)
            value = torch.tensor(epsilon, dtype=torch.float64)
            changes = float(cosine_change_bound(value)), float(paper_cosine_change_bound(value))
            return dict(zip(_BOUND_KEYS, (kappa, beta, epsilon, *changes), strict=True))
        state = self.initialise(normalize_rows(self._enter(source, "source embeddings")))
        whole = self.compose(state, torch.zeros_like(state.rho), state.rho, state.v)
        inside = torch.linalg.vector_norm(state.rho, dim=-1)
        rows = (kappa * inside + beta) / torch.linalg.vector_norm(whole, dim=-1)
        return dict(
            zip(
                _BOUND_KEYS,
                (kappa, beta, rows, cosine_change_bound(rows), paper_cosine_change_bound(rows)),
                strict=True,
            )
        )

    def standard_log(self, rho: Tensor) -> Tensor:
        """Standardise log radii by the target's mean and deviation.

        Args:
            rho: `(n, m)`.

        Returns:
            `(n, m)`.
        """
        return (rho.log() - self.log_rho_mean.to(rho.dtype)) / self.log_rho_std.to(rho.dtype)

    def _refined(self, rows: Tensor, product: _Product | None = None) -> Tensor:
        """Compute e' before its normalisation from unit rows; `product` spares making it again."""
        product = product or self._one_product(rows.dtype)
        if product is not None:
            return self._refined_from_product(rows, product)
        state = self.initialise(rows)
        if not self.config.needs_refinement:
            return self.compose(state, torch.zeros_like(state.rho), state.rho, state.v)
        return self.compose(state, *self.refine(state))

    def _one_product(self, dtype: torch.dtype) -> _Product | None:
        """Join what is linear in a row, c0 = Q^T e0 and what the first layer reads of v0 = e0 - Q c0.

        Returns:
            The product; None if the start is not linear in a row, or nothing is refined.
        """
        if self.config.start != "realign" or not self.config.needs_refinement:
            return None
        frame, scale = self.frame.to(dtype), self.start_scale.to(dtype)
        offset = self.target_mean.to(dtype) - scale * self.source_mean.to(dtype)
        joined = torch.cat([frame, orthogonal_complement(self.refinement.reads_v(dtype), frame).T], dim=-1)
        bias = torch.cat([frame.new_zeros(frame.shape[1]), self.refinement.bias_0.to(dtype)])
        return _Product(scale, offset, scale[:, None] * joined, offset @ joined + bias)

    def _refined_from_product(self, rows: Tensor, product: _Product) -> Tensor:
        """Compute what `refine` and `compose` do in two thirds of the time: v0 itself is never needed."""
        frame = self.frame.to(rows.dtype)
        read = torch.addmm(product.bias, rows, product.weight)
        inside, read = read[:, : frame.shape[1]], read[:, frame.shape[1] :]
        rho, cosine, sine = block_directions(inside)
        raw = self.refinement.refine_from(sine, cosine, self.standard_log(rho), read)
        turn, moved_rho, moved = self._bounded(rho, *raw)
        change = turned(moved_rho, cosine, sine, turn) - inside
        start = torch.addcmul(product.offset, product.scale, rows)
        return start.add_(moved).addmm_(change, frame.T)  # e0 + dv_V + Q (c^ - c0)

    def _transform(self, source: Tensor, out: Tensor | None = None) -> Tensor:
        shift = (self.target_mean - self.drift_mean).to(source.dtype)
        if source.requires_grad or source.is_meta or torch.compiler.is_compiling():
            return normalized_affine(self._refined(normalize_rows(source)), 1.0, shift)  # N(e' - mu^ + mu_i)
        result = torch.empty_like(source) if out is None else out
        product = self._one_product(source.dtype)
        size = min(_THREAD_ROWS * torch.get_num_threads(), _MOST_ROWS) if source.device.type == "cpu" else _MOST_ROWS
        for rows, moved in zip(source.split(size), result.split(size), strict=True):
            normalized_affine(self._refined(normalize_rows(rows, out=moved), product), 1.0, shift, moved)
        return result


_BOUND_KEYS = ("kappa", "beta_v", "epsilon", "cosine_change", "paper_cosine_change")
