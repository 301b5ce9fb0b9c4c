"""The phase graph of AnisoAlign, its potential, and the phase loss L_Phi (arXiv 2605.07825, sections 4.3, 4.4).

The edges (k, l) with their weights A_kl and offsets eta_kl are kept as one Hermitian matrix W_kl = A_kl
exp(i eta_kl), zero where there is no edge. Sums over neighbours are then two matrix products:

    sum_l A_kl sin(phi_k - phi_l - eta_kl) = Im( u_k conj( (W u)_k ) ),  u = exp(i phi)
    sum_l A_kl cos(phi_k - phi_l - eta_kl) = Re( u_k conj( (W u)_k ) )
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PhaseGraph", "PhaseSums", "phase_graph", "phase_loss", "phase_potential", "potential_gradient"]


@dataclass
class PhaseSums:
    """Sums over rows of what the graph is made of; parts add up, so a corpus is gone through in blocks.

    Attributes:
        count: Rows.
        first: Sum of exp(i theta_k), `(m,)` complex.
        second: Sum of exp(i (theta_k - theta_l)), `(m, m)` complex.
        energy: Sum of rho_k^2, `(m,)`.
        log_sum: Sum of log rho_k, `(m,)`.
        log_square: Sum of (log rho_k)^2, `(m,)`.
    """

    count: int
    first: Tensor
    second: Tensor
    energy: Tensor
    log_sum: Tensor
    log_square: Tensor

    @classmethod
    def of(cls, rho: Tensor, cosine: Tensor, sine: Tensor) -> PhaseSums:
        """Sum over one block of rows.

        Args:
            rho: Radii `(n, m)`.
            cosine: cos theta `(n, m)`.
            sine: sin theta `(n, m)`.

        Returns:
            The sums, in the precision of the inputs.
        """
        u = torch.complex(cosine, sine)
        log = rho.log()
        return cls(len(rho), u.sum(0), u.T @ u.conj(), rho.square().sum(0), log.sum(0), log.square().sum(0))

    def add(self, other: PhaseSums) -> PhaseSums:
        """Combine the sums of two disjoint sets of rows.

        Args:
            other: Sums over as many blocks.

        Returns:
            The sums over both.
        """
        return PhaseSums(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass
class PhaseGraph:
    """psi, alpha and the edges, learned from target phases alone (section 4.3).

    Attributes:
        psi: Mean phases psi_k = arg E exp(i theta_k), `(m,)`.
        alpha: Energy shares alpha_k = E rho_k^2 / sum_u E rho_u^2, `(m,)`.
        weight: A_kl = |M_kl| on edges, else 0, `(m, m)` symmetric.
        offset: eta_kl = arg M_kl, `(m, m)`, eta_lk = -eta_kl.
    """

    psi: Tensor
    alpha: Tensor
    weight: Tensor
    offset: Tensor

    def float(self) -> PhaseGraph:
        """Give the graph in float32, for training."""
        return PhaseGraph(self.psi.float(), self.alpha.float(), self.weight.float(), self.offset.float())

    @property
    def edges(self) -> tuple[Tensor, Tensor]:
        """Both ends k < l of each undirected edge, two int64 tensors `(|E|,)`."""
        k, l = self.weight.triu(1).nonzero(as_tuple=True)  # noqa: E741
        return k, l


def phase_graph(sums: PhaseSums, neighbours: int, eps: float = 1e-6) -> PhaseGraph:
    """Build the graph: each block's `neighbours` largest |M_kl|, l != k; union, undirected (section 4.3).

    Args:
        sums: Over the target's rows.
        neighbours: p.
        eps: In the denominator of alpha.

    Returns:
        The graph, float64 if the sums are.
    """
    coherence = sums.second / sums.count  # M
    size = coherence.abs().fill_diagonal_(-1)
    keep = torch.zeros_like(size, dtype=torch.bool)
    nearest = size.topk(min(neighbours, max(len(size) - 1, 0)), dim=1).indices
    keep.scatter_(1, nearest, True)
    keep |= keep.T.clone()
    energy = sums.energy / sums.count
    offset = coherence.angle().triu(1)
    return PhaseGraph(
        psi=sums.first.angle(),
        alpha=energy / (energy.sum() + eps),
        weight=torch.where(keep, (size + size.T) / 2, torch.zeros_like(size)),
        offset=offset - offset.T,
    )


def phase_potential(phi: Tensor, graph: PhaseGraph) -> Tensor:
    """Compute the potential Psi of section 4.3.

    Psi(phi) = sum_k alpha_k (1 - cos(phi_k - psi_k)) + sum_(k,l in E) A_kl (1 - cos(phi_k - phi_l - eta_kl)),
    each edge once.

    Args:
        phi: Phases `(..., m)`.
        graph: In the dtype of `phi`.

    Returns:
        `(...)`.
    """
    single = (graph.alpha * (1 - (phi - graph.psi).cos())).sum(-1)
    real, _ = _neighbour_sums(phi, graph)
    return single + 0.5 * (graph.weight.sum() - real.sum(-1))


def potential_gradient(phi: Tensor, graph: PhaseGraph) -> Tensor:
    """Compute the drift [grad Psi]_k of section 4.3.

    [grad Psi]_k = alpha_k sin(phi_k - psi_k) + sum_(l: (k,l) in E) A_kl sin(phi_k - phi_l - eta_kl).

    Args:
        phi: Phases `(..., m)`.
        graph: In the dtype of `phi`.

    Returns:
        `(..., m)`.
    """
    _, imaginary = _neighbour_sums(phi, graph)
    return graph.alpha * (phi - graph.psi).sin() + imaginary


def phase_loss(theta: Tensor, start: Tensor, rho: Tensor, edges: tuple[Tensor, Tensor], eps: float = 1e-6) -> Tensor:
    """Compute L_Phi of section 4.4: how far phase differences along edges have moved.

    L_Phi = 1/|E| sum_(k,l in E) omega_kl (1 - cos((theta^_k - theta^_l) - (theta0_k - theta0_l))), with
    omega_kl = rho0_k rho0_l / (sum_E rho0_u rho0_v + eps), row by row.

    Args:
        theta: Corrected phases theta^ `(n, m)`.
        start: Initial phases theta0 `(n, m)`.
        rho: Initial radii rho0 `(n, m)`.
        edges: From `PhaseGraph.edges`.
        eps: In the denominator of omega.

    Returns:
        Mean over the rows, a scalar; zero without edges.
    """
    k, l = edges  # noqa: E741
    if not len(k):
        return theta.sum() * 0
    products = rho[:, k] * rho[:, l]
    omega = products / (products.sum(-1, keepdim=True) + eps)
    moved = theta - start
    return (omega * (1 - (moved[:, k] - moved[:, l]).cos())).sum(-1).mean() / len(k)


def _neighbour_sums(phi: Tensor, graph: PhaseGraph) -> tuple[Tensor, Tensor]:
    """Give real and imaginary parts of u_k conj((W u)_k), each `(..., m)`."""
    cosine, sine = phi.cos(), phi.sin()
    real, imaginary = graph.weight * graph.offset.cos(), graph.weight * graph.offset.sin()  # W
    # rows times W^T: the real part is symmetric, the imaginary part antisymmetric
    a = cosine @ real + sine @ imaginary  # Re W u
    b = sine @ real - cosine @ imaginary  # Im W u
    return cosine * a + sine * b, sine * a - cosine * b
