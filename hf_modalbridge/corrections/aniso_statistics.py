"""What AnisoAlign's fit reads from a corpus besides means and covariances, block by block."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm.auto import tqdm

from hf_modalbridge.corrections.streams import RowStream
from hf_modalbridge.functional.block_polar import block_directions
from hf_modalbridge.functional.geometry import normalize_rows
from hf_modalbridge.functional.phase_graph import PhaseSums

__all__ = ["learned_mixing", "phase_sums", "random_mixing", "sample_rows", "unit_batches"]


def unit_batches(stream: RowStream, dtype: torch.dtype, doing: str) -> Iterator[Tensor]:
    """Go through unit rows once, in order. The rows are checked by the earlier pass for the means.

    Args:
        stream: The rows.
        dtype: To compute in.
        doing: Label of the progress bar.

    Yields:
        Blocks `(n, dim)`.
    """
    with tqdm(total=stream.rows, desc=f"{stream.what} {doing}", unit="row", disable=not stream.progress) as bar:
        for batch in stream.batches():
            yield normalize_rows(batch.to(dtype))
            bar.update(len(batch))


def sample_rows(stream: RowStream, limit: int, generator: torch.Generator) -> Tensor:
    """Draw rows uniformly without replacement, all of them where there are few.

    Args:
        stream: The rows.
        limit: Rows to hold at most.
        generator: Source of the random numbers.

    Returns:
        Unit rows `(min(rows, limit), dim)` float32, in a random order.
    """
    order = torch.randperm(stream.rows, generator=generator)[:limit]
    wanted, back = order.sort()
    rows = torch.empty(len(order), stream.dim)
    start = 0
    for batch in unit_batches(stream, torch.float32, "sample"):
        first, last = torch.searchsorted(wanted, torch.tensor([start, start + len(batch)])).tolist()
        rows[back[first:last]] = batch[wanted[first:last] - start]
        start += len(batch)
    return rows


def phase_sums(stream: RowStream, frame: Tensor) -> PhaseSums:
    """Sum phases and radii over a whole corpus, in float64.

    Args:
        stream: The rows.
        frame: Q_U `(dim, 2 m)` float64.

    Returns:
        The sums; memory is m x m.
    """
    total: PhaseSums | None = None
    for rows in unit_batches(stream, torch.float64, "phases"):
        sums = PhaseSums.of(*block_directions(rows @ frame))
        total = sums if total is None else total.add(sums)
    assert total is not None  # a stream has at least one row
    return total


def random_mixing(rank: int, generator: torch.Generator) -> Tensor:
    """Draw a random orthogonal R (uniformly, by QR of a Gaussian matrix).

    Args:
        rank: r.
        generator: Source of the random numbers.

    Returns:
        `(rank, rank)` float64.
    """
    q, r = torch.linalg.qr(torch.randn(rank, rank, dtype=torch.float64, generator=generator))
    return q * r.diagonal().sign()


def learned_mixing(sides: list[Tensor], neighbours: int, steps: int, generator: torch.Generator) -> Tensor:
    """Find an orthogonal R that makes block phases concentrated and coherent on both sides.

    The paper asks for a maximally stable organisation (section 4.2) and gives no objective. Here R = exp(S - S^T)
    maximises, summed over the sides, mean_k |E exp(i theta_k)| + mean of each block's `neighbours` largest |M_kl|.

    Args:
        sides: Coordinates in the frame `(n, r)` of source (recentred on the target) and target.
        neighbours: p.
        steps: Of Adam.
        generator: Source of the random numbers; it picks at most 4096 rows of each side.

    Returns:
        R `(r, r)` float64.
    """
    rank = sides[0].shape[1]
    sides = [c[torch.randperm(len(c), generator=generator)[:4096]].float() for c in sides]
    skew = (1e-3 * torch.randn(rank, rank, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([skew], lr=0.01)
    top = min(neighbours, rank // 2 - 1)
    for _ in range(steps if rank else 0):
        mixing = torch.linalg.matrix_exp(skew - skew.T)
        objective = torch.zeros(())
        for c in sides:
            _, cosine, sine = block_directions(c @ mixing)
            real = (cosine.T @ cosine + sine.T @ sine) / len(c)
            imaginary = (sine.T @ cosine - cosine.T @ sine) / len(c)
            size = (real.square() + imaginary.square() + 1e-12).sqrt()
            size = size - 2 * torch.eye(len(size))  # a block is no neighbour of its own
            mean = (cosine.mean(0).square() + sine.mean(0).square() + 1e-12).sqrt().mean()
            objective = objective + mean + (size.topk(top, dim=1).values.mean() if top else 0)
        optimizer.zero_grad()
        (-objective).backward()
        optimizer.step()
    wide = skew.detach().double()
    return torch.linalg.matrix_exp(wide - wide.T)
