"""Stage I of AnisoAlign: the score of target phases (arXiv 2605.07825, section 4.3)."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from hf_modalbridge.corrections.aniso_align import AnisoAlign
from hf_modalbridge.corrections.aniso_losses import denoising_loss, draw_times
from hf_modalbridge.corrections.aniso_networks import Mlp, ScoreNet
from hf_modalbridge.corrections.aniso_training import Stage, draw_rows, held_out, step_generator, train_stage
from hf_modalbridge.functional.block_polar import block_polar
from hf_modalbridge.functional.geometry import normalize_rows

__all__ = ["load_score", "score_loss", "train_score"]


def train_score(
    correction: AnisoAlign, target: Tensor, seed: int, identity: str, folder: Path | None, progress: bool
) -> ScoreNet | None:
    """Stage I: learn the score of target phases alone (section 4.3).

    Args:
        correction: With frame and graph, on the device to train on.
        target: Sampled unit rows `(n, dim)` in random order; the first are held out.
        seed: Of the fit.
        identity: What a checkpoint must agree in.
        folder: Of the checkpoints, or None.
        progress: Whether to show a progress bar.

    Returns:
        The network, frozen; None if no loss needs it.
    """
    config, device = correction.config, correction.frame.device
    if not config.needs_score:
        return None
    net = ScoreNet(config.blocks, config.score_width, config.score_layers).to(device)
    net.reset(torch.Generator().manual_seed(seed + 1))
    graph = correction.graph.float()
    frame = correction.frame.float()
    polar = [block_polar(rows.to(device) @ frame) for rows in target.split(8192)]
    theta = torch.cat([theta for _, theta in polar])
    log_rho = correction.standard_log(torch.cat([rho for rho, _ in polar]))
    held = held_out(len(theta), config.held_out)

    def measure(net: Mlp, rows: Tensor | slice, generator: torch.Generator) -> Tensor:
        assert isinstance(net, ScoreNet)
        phases = theta[rows]
        times = draw_times(len(phases), config.sigma_min, config.sigma_max, generator)
        noise = torch.randn(phases.shape, generator=generator)
        moved = times[0].to(device), times[1].to(device)
        return denoising_loss(net, phases, log_rho[rows], graph, config.tau, moved, noise.to(device))

    def loss(net: Mlp, generator: torch.Generator) -> Tensor:
        return measure(net, draw_rows(held, len(theta), config.score_batch, generator).to(device), generator)

    @torch.no_grad()
    def validate(net: Mlp) -> float:
        return float(measure(net, slice(held), step_generator(seed, "score", -1)))

    stage = Stage(
        "score", config.score_steps, config.score_lr, config.weight_decay, config.ema, config.eval_every,
        config.patience, seed, identity, folder, progress,
    )  # fmt: skip
    correction.history["score"] = train_stage(net, stage, loss, validate)
    return net


def load_score(correction: AnisoAlign, checkpoint_dir: str | os.PathLike[str]) -> ScoreNet:
    """Read the best score network of a fit from its checkpoints.

    Args:
        correction: The fitted correction.
        checkpoint_dir: As given to `fit`.

    Returns:
        The network, frozen, on the CPU.

    Raises:
        FileNotFoundError: If stage I left no checkpoint there.
    """
    path = Path(checkpoint_dir) / "score.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}. Fit with checkpoint_dir= and lambda_score > 0.")
    config = correction.config
    net = ScoreNet(config.blocks, config.score_width, config.score_layers)
    with safe_open(path, "pt") as file:
        for name, tensor in net.named_buffers():
            tensor.copy_(file.get_tensor(f"best/{name}"))
    return net


@torch.no_grad()
def score_loss(
    correction: AnisoAlign, net: ScoreNet | None, target: Tensor, *, shuffle: bool = False, seed: int = 0
) -> float:
    """Measure L_I on target rows: whether the network knows how phases of one embedding go together.

    Args:
        correction: The fitted correction, on the CPU.
        net: The network; None for a score of zero.
        target: `(n, dim)`.
        shuffle: Whether to shuffle the phases of each block across the rows, each block on its own, which keeps
            their distributions and takes away what they have in common.
        seed: Of noise and shuffling.

    Returns:
        The mean over rows and blocks, as `history["score"]` has it.
    """
    config = correction.config
    generator = torch.Generator().manual_seed(seed)
    rho, theta = block_polar(normalize_rows(target.float()) @ correction.frame.float())
    times = draw_times(len(theta), config.sigma_min, config.sigma_max, generator)
    noise = torch.randn(theta.shape, generator=generator)
    if shuffle:
        theta = theta.gather(0, torch.rand(theta.shape, generator=generator).argsort(0))
    graph = correction.graph.float()
    return float(denoising_loss(net, theta, correction.standard_log(rho), graph, config.tau, times, noise))
