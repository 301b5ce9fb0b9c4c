"""Stage II of AnisoAlign: the bounded refinement of the source (arXiv 2605.07825, section 4.4)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hf_modalbridge.corrections.aniso_align import AnisoAlign
from hf_modalbridge.corrections.aniso_losses import denoising_loss, draw_times, sliced_distance
from hf_modalbridge.corrections.aniso_networks import Mlp, ScoreNet
from hf_modalbridge.corrections.aniso_training import Stage, draw_rows, held_out, step_generator, train_stage
from hf_modalbridge.functional.geometry import normalize_rows
from hf_modalbridge.functional.phase_graph import phase_loss
from hf_modalbridge.functional.wrapped_gaussian import wrap

__all__ = ["train_refinement"]


def train_refinement(
    correction: AnisoAlign,
    score: ScoreNet | None,
    samples: tuple[Tensor, ...],
    seed: int,
    identity: str,
    folder: Path | None,
    progress: bool,
) -> None:
    """Stage II: learn the bounded refinement, the score network frozen (section 4.4).

    L = lambda_score L_II + lambda_phi |E| L_Phi + lambda_0 (L_0 + penalty * mean squared refinement).

    Args:
        correction: With frame and graph, on the device to train on; its network is trained in place.
        score: From stage I, or None.
        samples: Sampled unit rows of source and target in random order; the first are held out.
        seed: Of the fit.
        identity: What a checkpoint must agree in.
        folder: Of the checkpoints, or None.
        progress: Whether to show a progress bar.
    """
    config, device = correction.config, correction.frame.device
    source, target = samples
    graph = correction.graph.float()
    edges = graph.edges
    held, held_target = (held_out(len(rows), config.held_out) for rows in samples)

    def measure(rows: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            state = correction.initialise(rows.to(device))
        turn, rho, v = correction.refine(state, project=True)
        start = torch.atan2(state.sine, state.cosine)
        theta = wrap(start + turn)
        total = torch.zeros((), device=device)
        if score is not None:
            times = draw_times(len(rows), config.sigma_min, config.sigma_max, generator)
            noise = torch.randn(theta.shape, generator=generator).to(device)
            moved = times[0].to(device), times[1].to(device)
            log_rho = correction.standard_log(rho)
            total = total + config.lambda_score * denoising_loss(score, theta, log_rho, graph, config.tau, moved, noise)
        if config.lambda_phi and len(edges[0]):
            total = total + config.lambda_phi * len(edges[0]) * phase_loss(theta, start, state.rho, edges)
        if config.lambda_0:
            directions = _directions(correction.frame, config.projections, generator).to(device)
            moved_rows = normalize_rows(correction.compose(state, turn, rho, v))
            size = _relative_size(correction, state.rho, turn, rho, v - state.v)
            total = total + config.lambda_0 * (
                sliced_distance(moved_rows, others.to(device), directions) + config.penalty * size
            )
        return total

    def loss(net: Mlp, generator: torch.Generator) -> Tensor:
        # both sets of one size, for the sorted projections are compared one by one
        size = max(1, min(config.refine_batch, len(source) - held, len(target) - held_target))
        rows = source[draw_rows(held, len(source), size, generator)]
        return measure(rows, target[draw_rows(held_target, len(target), size, generator)], generator)

    @torch.no_grad()
    def validate(net: Mlp) -> float:
        size = min(held, held_target)
        current = correction.refinement
        correction.refinement = net  # type: ignore[assignment]  # the average of the weights, where there is one
        try:
            return float(measure(source[:size], target[:size], step_generator(seed, "refinement", -1)))
        finally:
            correction.refinement = current

    stage = Stage(
        "refinement", config.refine_steps, config.refine_lr, config.weight_decay, 0.0, config.eval_every,
        config.patience, seed, identity, folder, progress,
    )  # fmt: skip
    correction.history["refinement"] = train_stage(correction.refinement, stage, loss, validate)


def _directions(frame: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw unit directions, half of them inside the frame where it has any."""
    dim, rank = frame.shape
    wide = torch.randn(dim, count, generator=generator)
    inside = torch.randn(rank, count // 2, generator=generator)
    if rank:
        wide[:, : count // 2] = frame.float().cpu() @ inside
    return wide / torch.linalg.vector_norm(wide, dim=0)


def _relative_size(correction: AnisoAlign, start: Tensor, turn: Tensor, rho: Tensor, v: Tensor) -> Tensor:
    """Mean squared refinements, each relative to its bound."""
    config = correction.config
    parts = [(turn, config.a_theta), ((rho / start).log(), config.a_rho), (v, config.v_bound / correction.dim**0.5)]
    sizes = [(value / limit).square().mean() for value, limit in parts if limit and value.numel()]
    return torch.stack(sizes).sum()
