"""Geometry of rows of embeddings: unit rows, checks, the centroid gap and retrieval."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["centroid_gap", "check_rows", "normalize_rows", "recall_at_k"]

_MIN_NORM = 1e-10
_LISTED = 5


def normalize_rows(x: Tensor, eps: float = _MIN_NORM, out: Tensor | None = None) -> Tensor:
    """Scale each row to unit length, N(v) = v / ||v||.

    Args:
        x: Floating point tensor `(..., dim)`.
        eps: Rows shorter than this are divided by it, so that a zero row stays zero (`check_rows` finds those).
        out: Memory for the result, which may be `x` itself; not where gradients are wanted.

    Returns:
        Tensor of the shape and dtype of `x`.
    """
    return torch.div(x, torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(eps), out=out)


def check_rows(x: Tensor, ids: Sequence[object] | None = None, what: str = "embeddings") -> None:
    """Refuse rows that have no direction: non-finite numbers, or all zero.

    Args:
        x: Rows `(n, dim)`.
        ids: Names of the rows for the message; their positions, or a range of them, by default.
        what: What the rows are, for the message.

    Raises:
        ValueError: If a row holds NaN or infinity, or is zero; the first few are listed.
    """
    if not len(x):
        return
    norms = torch.linalg.vector_norm(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)  # (n,)
    # NaN and infinity show in the smallest or the largest
    smallest, largest = torch.stack(torch.aminmax(norms)).tolist()
    if smallest > _MIN_NORM and largest < float("inf"):
        return
    finite = torch.isfinite(norms)
    for bad, kind in (
        (~finite, "non-finite values (NaN, infinity, or too large to have a length)"),
        (finite & (norms <= _MIN_NORM), "only zeros"),
    ):
        rows = bad.nonzero().flatten().tolist()
        if rows:
            names = ", ".join(str(ids[row] if ids is not None else row) for row in rows[:_LISTED])
            more = f" and {len(rows) - _LISTED} more" if len(rows) > _LISTED else ""
            raise ValueError(
                f"{len(rows)} of {x.shape[0]} rows of the {what} hold {kind}: "
                f"{'row' if ids is None or isinstance(ids, range) else 'id'} {names}{more}. Such rows have no "
                "direction; drop them or embed those items again."
            )


def centroid_gap(mean_a: Tensor, mean_b: Tensor) -> float:
    """Measure the centroid gap ||mu_a - mu_b|| of two sets of unit rows (arXiv 2602.07026, section 4).

    Args:
        mean_a: Mean `(dim,)` of one set.
        mean_b: Mean `(dim,)` of the other.

    Returns:
        The distance, computed in float64.
    """
    return float(torch.linalg.vector_norm(mean_a.double() - mean_b.double()))


def recall_at_k(
    queries: Tensor, keys: Tensor, ks: Sequence[int] = (1, 5, 10), batch_size: int = 1024
) -> dict[int, float]:
    """Measure how often row i of the keys is among the k rows nearest to row i of the queries, by cosine.

    Args:
        queries: `(n, dim)`.
        keys: `(m, dim)` with m >= n; key i belongs to query i.
        ks: The cut-offs.
        batch_size: Queries compared at once.

    Returns:
        Share of queries by cut-off. A key that ties with the right one counts as nearer, so constant
        embeddings score zero, not one.

    Raises:
        ValueError: If widths differ or there are fewer keys than queries.
    """
    if queries.shape[-1] != keys.shape[-1] or len(keys) < len(queries) or not len(queries):
        raise ValueError(
            "recall needs queries (n, dim) and keys (m, dim) with m >= n >= 1, key i belonging to query i; got "
            f"{tuple(queries.shape)} and {tuple(keys.shape)}. Pass paired rows of one width."
        )
    queries, keys = normalize_rows(queries.float()), normalize_rows(keys.float())
    nearer = []
    for start in range(0, len(queries), batch_size):
        scores = queries[start : start + batch_size] @ keys.T  # (batch, m)
        own = torch.arange(start, start + len(scores), device=scores.device)
        truth = scores.gather(1, own[:, None])
        nearer.append((scores >= truth).sum(1) - 1)
    rank = torch.cat(nearer)
    return {int(k): float((rank < k).double().mean()) for k in ks}
