"""The modality gap in neighbourhoods: exact nearest neighbours in blocks, mixing of two sets, and preservation."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from hf_modalbridge.functional.geometry import normalize_rows

__all__ = [
    "Neighbors",
    "expected_mixing_entropy",
    "mixing_entropy",
    "mixing_rate",
    "mixing_shares",
    "nearest_neighbors",
    "neighbor_overlap",
]


class Neighbors:
    """The k nearest rows of a pool, gathered block by block; memory is queries x (k + block).

    Args:
        queries: `(n, dim)`; normalised here.
        k: Neighbours to keep.
        exclude: `(n,)` position in the pool of each query's own row, which is no neighbour; -1 or None: none.

    Attributes:
        cosines: `(n, k)`, nearest first; -inf where the pool was smaller.
        positions: `(n, k)` int64 in the pool; -1 where the pool was smaller.
    """

    def __init__(self, queries: Tensor, k: int, exclude: Tensor | None = None) -> None:
        if k < 1:
            raise ValueError(f"k is at least 1, got {k}.")
        self.queries = normalize_rows(queries.float())
        self.k = k
        self.exclude = exclude
        self.cosines = torch.full((len(queries), k), float("-inf"))
        self.positions = torch.full((len(queries), k), -1, dtype=torch.int64)
        self._start = 0

    def add(self, rows: Tensor, batch_size: int = 2048) -> None:
        """Compare with the next block of the pool.

        Args:
            rows: `(m, dim)`; normalised here.
            batch_size: Queries compared at once.
        """
        rows = normalize_rows(rows.float())
        for start in range(0, len(self.queries), batch_size):
            part = slice(start, start + batch_size)
            cosines = self.queries[part] @ rows.T  # (batch, m)
            if self.exclude is not None:
                own = self.exclude[part] - self._start
                here = ((own >= 0) & (own < len(rows))).nonzero().flatten()
                cosines[here, own[here]] = float("-inf")
            best, place = cosines.topk(min(self.k, len(rows)), dim=1)
            both = torch.cat([self.cosines[part], best], 1)
            places = torch.cat([self.positions[part], place + self._start], 1)
            self.cosines[part], order = both.topk(self.k, dim=1)
            self.positions[part] = places.gather(1, order)
        self._start += len(rows)


def nearest_neighbors(
    queries: Tensor, pool: Tensor | Iterable[Tensor], k: int, exclude: Tensor | None = None, block: int = 4096
) -> tuple[Tensor, Tensor]:
    """Find the k rows of a pool that are nearest to each query by cosine, exactly.

    Args:
        queries: `(n, dim)`.
        pool: `(m, dim)`, or an iterable of its blocks, of which one at a time is held.
        k: Neighbours.
        exclude: `(n,)` position in the pool of each query's own row; -1 or None: none.
        block: Rows a block of a tensor.

    Returns:
        Cosines `(n, k)` float32, nearest first, and positions `(n, k)` int64; -inf and -1 where the pool is smaller.
    """
    found = Neighbors(queries, k, exclude)
    for rows in pool.split(block) if isinstance(pool, Tensor) else pool:
        found.add(rows)
    return found.cosines, found.positions


def mixing_shares(target_cosines: Tensor, other_cosines: Tensor) -> Tensor:
    """Give the share of target rows among the k nearest of both sets together.

    Args:
        target_cosines: `(n, k)` cosines of a query's nearest neighbours among the target's rows.
        other_cosines: `(n, k)` the same among the other set's rows; the query itself left out on its own side.

    Returns:
        p_k `(n,)` float64, 0 to 1. A tie at the edge goes to the target.

    Raises:
        ValueError: If both sets together have fewer than k rows.
    """
    k = target_cosines.shape[1]
    best, order = torch.cat([target_cosines, other_cosines], 1).sort(dim=1, descending=True, stable=True)
    if bool((best[:, :k] == float("-inf")).any()):
        raise ValueError(f"{k} neighbours were asked for and both sets together have fewer. Use a smaller k.")
    return (order[:, :k] < k).double().mean(1)


def mixing_rate(shares: Tensor, query_is_target: bool) -> Tensor:
    """Give the share of neighbours that come from the other set.

    arXiv 2602.07026 (section 5) prints a kNN mixing rate at k = 20 without its formula; this is the plain reading.
    Well mixed sets of n and m rows have m / (n + m - 1) for the first.

    Args:
        shares: From `mixing_shares`.
        query_is_target: Whether the queries are target rows.

    Returns:
        `(n,)`, 0 to 1.
    """
    return 1 - shares if query_is_target else shares


def expected_mixing_entropy(targets: int, others: int, k: int) -> float:
    """Give the expected binary entropy of p_k when the labels of origin are shuffled over the pool.

    The number of target rows among k fixed neighbours is then hypergeometric, so no shuffling is needed.

    Args:
        targets: Target rows in the pool.
        others: Other rows.
        k: Neighbours.

    Returns:
        Bits, 0 to 1.
    """
    n = targets + others
    hits = torch.arange(max(0, k - others), min(k, targets) + 1, dtype=torch.float64)

    def log_choose(total: Tensor | float, chosen: Tensor | float) -> Tensor:
        total, chosen = torch.as_tensor(total, dtype=torch.float64), torch.as_tensor(chosen, dtype=torch.float64)
        return torch.lgamma(total + 1) - torch.lgamma(chosen + 1) - torch.lgamma(total - chosen + 1)

    weight = (log_choose(targets, hits) + log_choose(others, k - hits) - log_choose(n, k)).exp()
    return float((weight * _binary_entropy(hits / k)).sum() / weight.sum())


def mixing_entropy(shares: Tensor, targets: int, others: int, k: int) -> Tensor:
    """Give H2(p_k(u)) divided by its expectation under shuffled labels (arXiv 2605.07825, appendix B.2).

    Its mean over corrected rows u is M^Z (do they enter the target's support), over target rows M^X (is the
    target covered).

    Args:
        shares: p_k `(n,)` from `mixing_shares`.
        targets: Target rows in the pool.
        others: Corrected rows in the pool.
        k: Neighbours.

    Returns:
        `(n,)` float64; the mean is 0 for separate sets, about 1 for well mixed ones.
    """
    return _binary_entropy(shares.double()) / expected_mixing_entropy(targets, others, k)


def neighbor_overlap(before: Tensor, after: Tensor) -> Tensor:
    """Give Omega_k of each row, |kNN_Y(i) n kNN_Z(i)| / k (arXiv 2605.07825, appendix B.2).

    Args:
        before: `(n, k)` positions of the neighbours in the source.
        after: `(n, k)` positions of the neighbours in the corrected source.

    Returns:
        `(n,)` float64, 0 to 1; unrelated neighbourhoods have about k / rows.
    """
    return (before[:, :, None] == after[:, None, :]).any(2).double().mean(1)


def _binary_entropy(p: Tensor) -> Tensor:
    """Entropy of a coin in bits."""
    p = p.double()
    return (torch.special.entr(p) + torch.special.entr(1 - p)) / torch.log(torch.tensor(2.0, dtype=torch.float64))
