"""The network of Diffusion-Link and its training on pairs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm
from tqdm.auto import tqdm

from hf_modalbridge.functional.diffusion import add_noise, topology_loss

__all__ = ["Denoiser", "train_denoiser"]


class Denoiser(nn.Module):
    """Residual MLP that predicts clean rows: x_0 = a_t z_t + net(z_t, t).

    a_t z_t is the best linear guess for rows of unit variance, so that a network with zero output weights, as it
    starts, already is a denoiser. Each block adds W_2 gelu(W_1 LN(h) + time) to h.

    Args:
        dim: Width of the rows.
        hidden: Width inside a block.
        blocks: Number of blocks.
    """

    inner: Tensor  # (blocks, hidden, dim)
    outer: Tensor  # (blocks, dim, hidden)
    clock: Tensor  # (blocks, hidden, 3)
    bias: Tensor  # (blocks, dim)
    output: Tensor  # (dim, dim)
    output_bias: Tensor  # (dim,)

    def __init__(self, dim: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.dim, self.hidden = dim, hidden
        shapes = {"inner": (blocks, hidden, dim), "outer": (blocks, dim, hidden), "output": (dim, dim)}
        shapes |= {"clock": (blocks, hidden, 3), "bias": (blocks, dim), "output_bias": (dim,)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape, dtype=torch.float32)))

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw the inner weights; outputs of blocks and of the whole start at zero or small.

        Args:
            generator: Source of the numbers.
        """
        with torch.no_grad():
            self.inner.normal_(0, self.dim**-0.5, generator=generator)
            self.outer.normal_(0, 0.1 * self.hidden**-0.5, generator=generator)
            self.clock.normal_(0, 1.0, generator=generator)

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        """Predict clean rows.

        Args:
            z: Noised rows `(n, dim)`.
            time: `(n, 1)` in [0, 1].

        Returns:
            `(n, dim)` in the dtype of `z`.
        """
        angle = time * (torch.pi / 2)
        clock = torch.cat([torch.ones_like(time), angle.cos(), angle.sin()], dim=1)  # (n, 3)
        h = z
        for index in range(len(self.inner)):
            inner = layer_norm(h, (self.dim,)) @ self.inner[index].T.to(z.dtype) + clock @ self.clock[index].T.to(
                z.dtype
            )
            h = h + gelu(inner) @ self.outer[index].T.to(z.dtype) + self.bias[index].to(z.dtype)
        guess = angle.cos() * z
        return guess + layer_norm(h, (self.dim,)) @ self.output.T.to(z.dtype) + self.output_bias.to(z.dtype)


def train_denoiser(
    network: Denoiser,
    source: Tensor,
    target: Tensor,
    *,
    generator: torch.Generator,
    steps: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    topology_weight: float,
    progress: bool,
) -> float:
    """Train to predict the target row of a pair from a noised row of either side (arXiv 2510.11330).

    A tenth of the pairs is held out; every 25 steps the loss from their source side is taken, and the best weights
    are kept. Training stops when it has not improved 8 times in a row.

    Args:
        network: Trained in place, on the CPU.
        source: `(n, dim)` float32 in coordinates of unit variance.
        target: `(n, dim)` float32, row i belonging to row i of the source.
        generator: Of split, batches, times and noise.
        steps: Most steps.
        batch_size: Pairs a step; each enters from both sides.
        learning_rate: Of AdamW; falls to zero as a cosine.
        weight_decay: Of AdamW.
        topology_weight: Of `topology_loss`, times dim: cosines of random rows are of size dim^-1/2.
        progress: Whether to show a progress bar.

    Returns:
        Mean squared error per number on the pairs held out, by the kept weights.
    """
    count, dim = source.shape
    order = torch.randperm(count, generator=generator)
    held, kept = order[: max(2, count // 10)], order[max(2, count // 10) :]
    times = torch.rand(len(held), 1, generator=generator)
    held_noise = torch.randn(len(held), dim, generator=generator)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def held_out() -> float:
        with torch.no_grad():
            return float((network(add_noise(source[held], times, held_noise), times) - target[held]).square().mean())

    best, state, patience = held_out(), copy.deepcopy(network.state_dict()), 8
    with tqdm(range(1, steps + 1), desc="denoiser", unit="step", disable=not progress) as bar, torch.enable_grad():
        for step in bar:
            batch = kept[torch.randint(len(kept), (min(batch_size, len(kept)),), generator=generator)]
            clean = torch.cat([source[batch], target[batch]])
            time = torch.rand(len(clean), 1, generator=generator)
            noise = torch.randn(clean.shape, generator=generator)
            predicted, wanted = network(add_noise(clean, time, noise), time), target[batch].repeat(2, 1)
            loss = (predicted - wanted).square().mean()
            if topology_weight:
                halves = zip(predicted.chunk(2), wanted.chunk(2), strict=True)
                loss = loss + topology_weight * dim * sum(topology_loss(p, w) for p, w in halves) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % 25 == 0 or step == steps:
                now = held_out()
                bar.set_postfix(held_out=f"{now:.4f}", refresh=False)
                patience -= 1
                if now < best:
                    best, state, patience = now, copy.deepcopy(network.state_dict()), 8
                elif not patience:
                    break
    network.load_state_dict(state)
    return best
