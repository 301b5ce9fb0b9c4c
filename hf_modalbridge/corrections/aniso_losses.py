"""The losses of AnisoAlign's two stages (arXiv 2605.07825, sections 4.3 and 4.4), and L_0, which is ours."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_modalbridge.corrections.aniso_networks import ScoreNet
from hf_modalbridge.functional.phase_graph import PhaseGraph, potential_gradient
from hf_modalbridge.functional.wrapped_gaussian import wrap, wrapped_score

__all__ = ["denoising_loss", "draw_times", "sliced_distance"]


def draw_times(rows: int, sigma_min: float, sigma_max: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw t uniform in [0, 1] and sigma_t = sigma_min (sigma_max / sigma_min)^t.

    Args:
        rows: How many.
        sigma_min: In rad.
        sigma_max: In rad.
        generator: Source of the random numbers, on the CPU.

    Returns:
        t and sigma_t, each `(rows, 1)`.
    """
    t = torch.rand(rows, 1, generator=generator)
    return t, sigma_min * (sigma_max / sigma_min) ** t


def denoising_loss(
    net: ScoreNet | None,
    theta: Tensor,
    log_rho: Tensor,
    graph: PhaseGraph,
    tau: float,
    times: tuple[Tensor, Tensor],
    noise: Tensor,
) -> Tensor:
    """Compute L_I on target phases, or L_II on corrected source phases with the network frozen.

    mu = wrap(theta - tau grad Psi(theta)); theta~ = wrap(mu + sqrt(2) sigma_t eps);
    E[ lambda_t || s(theta~, t, log rho) - grad log q(theta~ | mu, sigma_t) ||^2 ], lambda_t = 2 sigma_t^2,
    as the mean over blocks in place of the sum: a score of zero then has a loss near one at small sigma.

    Args:
        net: The score network; None for a score of zero.
        theta: Phases `(n, m)`.
        log_rho: Standardised log radii `(n, m)`.
        graph: In the dtype of `theta`.
        tau: Step along the drift.
        times: From `draw_times`.
        noise: eps `(n, m)`.

    Returns:
        Scalar.
    """
    t, sigma = times
    centre = wrap(theta - tau * potential_gradient(theta, graph))
    spread = math.sqrt(2) * sigma
    noised = wrap(centre + spread * noise)
    # the score at the noised phases depends on the noise alone, so no gradient flows through the target
    target = wrapped_score(spread * noise, 2 * sigma.square())
    score = net.score(noised, t, log_rho, sigma) if net is not None else torch.zeros_like(target)
    return (2 * sigma.square() * (score - target).square()).mean()


def sliced_distance(moved: Tensor, target: Tensor, directions: Tensor) -> Tensor:
    """Compute the squared sliced 2-Wasserstein distance of two centred sets, relative to the target's variance.

    Centred, because the last step of the correction sets the mean; relative along each direction, so that the
    many weak directions of an anisotropic space count as much as the few strong ones.

    Args:
        moved: `(n, dim)`.
        target: `(n, dim)`.
        directions: `(dim, k)`.

    Returns:
        Mean over the directions, a scalar.
    """
    a = ((moved - moved.mean(0)) @ directions).sort(0).values
    b = ((target - target.mean(0)) @ directions).sort(0).values
    return ((a - b).square().mean(0) / b.square().mean(0).clamp_min(1e-12)).mean()
