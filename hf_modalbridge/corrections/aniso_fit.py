"""The fit of AnisoAlign: statistics by streaming, stage I on the target, stage II on the source."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor

from hf_modalbridge.corrections.aniso_align import AnisoAlign
from hf_modalbridge.corrections.aniso_refinement import train_refinement
from hf_modalbridge.corrections.aniso_score import train_score
from hf_modalbridge.corrections.aniso_statistics import (
    learned_mixing,
    phase_sums,
    random_mixing,
    sample_rows,
    unit_batches,
)
from hf_modalbridge.corrections.statistics import unit_covariance
from hf_modalbridge.corrections.streams import RowStream
from hf_modalbridge.functional.block_polar import block_polar, quantile_knots
from hf_modalbridge.functional.covariance import CovarianceMoments
from hf_modalbridge.functional.frame import orthogonal_complement, pair_columns, residual_frame
from hf_modalbridge.functional.geometry import normalize_rows
from hf_modalbridge.functional.phase_graph import phase_graph
from hf_modalbridge.functional.realign import realign_scale

__all__ = ["fit_aniso", "fit_frame"]


def fit_aniso(
    correction: AnisoAlign,
    source: RowStream,
    target: RowStream,
    generator: torch.Generator,
    folder: Path | None,
    device: torch.device,
) -> None:
    """Fit all of it, in place.

    Args:
        correction: Unfitted.
        source: Rows of the source.
        target: Rows of the target.
        generator: Of the fit.
        folder: Of the checkpoints, or None.
        device: Where the networks train.
    """
    seed = generator.initial_seed()
    config = correction.config
    covariances = unit_covariance(source), unit_covariance(target)
    correction._set("source", covariances[0].moments)
    correction._set("target", covariances[1].moments)
    correction._set("output", covariances[1].moments)
    samples = tuple(sample_rows(stream, config.sample_rows, generator) for stream in (source, target))
    fit_frame(correction, covariances, samples, target, generator)
    correction.refinement.reset(torch.Generator().manual_seed(seed))
    if config.needs_refinement:
        sums = [hashlib.sha256(c.mean.numpy().tobytes()).hexdigest()[:16] for c in covariances]
        identity = {"seed": seed, "dim": correction.dim, "source": sums[0], "target": sums[1], **vars(config)}
        identity |= {"source_rows": source.rows, "target_rows": target.rows}
        text = json.dumps(identity, sort_keys=True)
        correction.to(device)
        score = train_score(correction, samples[1], seed, text, folder, target.progress)
        train_refinement(correction, score, samples, seed, text, folder, source.progress)
        correction.cpu()
        correction.refinement.project_output(correction.frame)
    _fit_drift(correction, source)


def fit_frame(
    correction: AnisoAlign,
    covariances: tuple[CovarianceMoments, CovarianceMoments],
    samples: tuple[Tensor, ...],
    target: RowStream,
    generator: torch.Generator,
) -> None:
    """Set the frame with R, the initialisation and the phase graph (sections 4.1 to 4.3).

    Args:
        correction: With means and traces of both sides.
        covariances: Of source and target.
        samples: Unit rows of source and target, for R and the knots.
        target: All of the target, for the graph.
        generator: Of the fit.
    """
    config = correction.config
    frame, _ = residual_frame(covariances[0].covariance, covariances[1].covariance, config.rank or 0, config.ridge)
    shift = correction.target_mean - correction.source_mean
    mixing = _mixing(correction, [(samples[0] + shift.float()) @ frame.float(), samples[1] @ frame.float()], generator)
    frame = frame @ mixing if mixing is not None else pair_columns(frame)
    correction.frame.copy_(frame)
    correction.start_scale.copy_(_start_scale(correction, covariances, frame))
    if config.start == "quantile":
        for name, rows, moved in (("source_knots", samples[0], shift.float()), ("target_knots", samples[1], 0.0)):
            knots = quantile_knots(block_polar((rows + moved) @ frame.float())[0], config.quantile_knots)
            getattr(correction, name).copy_(knots)
    sums = phase_sums(target, frame)
    graph = phase_graph(sums, config.neighbours)
    correction.phase_mean.copy_(graph.psi)
    correction.energy_share.copy_(graph.alpha)
    correction.edge_weight.copy_(graph.weight)
    correction.edge_offset.copy_(graph.offset)
    mean = sums.log_sum / sums.count
    correction.log_rho_mean.copy_(mean)
    correction.log_rho_std.copy_((sums.log_square / sums.count - mean.square()).clamp_min(1e-12).sqrt())


def _mixing(correction: AnisoAlign, sides: list[Tensor], generator: torch.Generator) -> Tensor | None:
    """Give R, or None for the identity."""
    config = correction.config
    if config.mixing == "identity" or not config.blocks:
        return None
    if config.mixing == "random":
        return random_mixing(config.rank or 0, generator)
    order = pair_columns(torch.eye(config.rank or 0, dtype=torch.float64))
    sides = [c @ order.float() for c in sides]
    return order @ learned_mixing(sides, config.neighbours, config.mixing_steps, generator)


def _start_scale(
    correction: AnisoAlign, covariances: tuple[CovarianceMoments, CovarianceMoments], frame: Tensor
) -> Tensor:
    """Give s for all coordinates, or D_V = sigma_V^x / (sigma_V^y + eps) for each."""
    if correction.config.start == "realign":
        scale = realign_scale(float(correction.source_trace), float(correction.target_trace))
        return torch.full((correction.dim,), scale, dtype=torch.float64)
    outside = []
    for moments in covariances:
        half = orthogonal_complement(moments.covariance, frame)  # Sigma (I - P)
        outside.append(orthogonal_complement(half.T, frame).diagonal().clamp_min(0))
    if correction.config.v_scale == "scalar":
        outside = [variances.sum().expand(correction.dim) for variances in outside]
    source, target = (variances.sqrt() for variances in outside)
    # a coordinate of the frame alone has no spread outside it: it stays as it is
    return torch.where(source > 1e-9, target / (source + 1e-10), torch.ones_like(source))


def _fit_drift(correction: AnisoAlign, source: RowStream) -> None:
    """Compute mu^ = mean of e' over the whole source, and what the bound needs of the initial states."""
    total = torch.zeros(correction.dim, dtype=torch.float64)
    least, inside = float("inf"), 0.0
    for rows in unit_batches(source, torch.float64, "centroid"):
        state = correction.initialise(rows)
        still = torch.zeros_like(state.rho)
        lengths = torch.linalg.vector_norm(correction.compose(state, still, state.rho, state.v), dim=-1)
        least = min(least, float(lengths.min()))
        inside = max(inside, float((torch.linalg.vector_norm(state.rho, dim=-1) / lengths).max()))
        total += normalize_rows(correction._refined(rows)).sum(0)
    correction.drift_mean.copy_(total / source.rows)
    correction.least_start.fill_(least)
    correction.largest_inside.fill_(inside)
