"""Checks on rows before they are written: what is in a store can be trusted afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

__all__ = ["UNIT_TOLERANCE", "check_embeddings", "check_ids", "listed", "to_rows"]

UNIT_TOLERANCE = 1e-2
"""Largest departure of a norm from one in a store of unit rows; bfloat16 rows are within 0.004."""

_CHECKED_BYTES = 1 << 19  # rows are checked a few at a time, inside the processor's cache


def listed(names: Sequence[object], limit: int = 5) -> str:
    """List the first few names for a message.

    Args:
        names: All of them.
        limit: How many to show.

    Returns:
        Such as "a, b and 7 more".
    """
    shown = ", ".join(str(name) for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def to_rows(embeddings: np.ndarray | torch.Tensor, dim: int, dtype: str) -> np.ndarray:
    """Bring embeddings into the dtype of a store.

    Args:
        embeddings: `(n, dim)` of any floating dtype, bfloat16 tensors too.
        dim: Expected width.
        dtype: Numpy dtype of the store by name.

    Returns:
        C-contiguous array `(n, dim)`.

    Raises:
        TypeError: If it is no floating point array.
        ValueError: If the shape is another.
    """
    tensor = embeddings if isinstance(embeddings, torch.Tensor) else torch.as_tensor(np.asarray(embeddings))
    if not tensor.is_floating_point():
        raise TypeError(f"embeddings are floating point numbers, got {tensor.dtype}. Convert them first.")
    if tensor.ndim != 2 or tensor.shape[1] != dim:
        raise ValueError(
            f"embeddings of shape {tuple(tensor.shape)} do not go into a store of dim {dim}: expected (n, {dim}). "
            "Check that the encoder is the one the store was made for."
        )
    return tensor.detach().to("cpu", getattr(torch, dtype)).contiguous().numpy()


def check_ids(ids: Sequence[str], rows: int, seen: set[str]) -> list[str]:
    """Check that ids name the rows, each once.

    Args:
        ids: One id a row.
        rows: Number of rows.
        seen: Ids that the store holds already.

    Returns:
        The ids as a list.

    Raises:
        TypeError: If an id is no string.
        ValueError: If the number differs from the rows or an id occurs twice.
    """
    ids = list(ids)
    if len(ids) != rows:
        raise ValueError(f"got {len(ids)} ids for {rows} rows of embeddings. Give one id a row.")
    if set(map(type, ids)) - {str}:
        name = next(name for name in ids if type(name) is not str)
        raise TypeError(f"ids are strings, got {name!r} of type {type(name).__name__}. Use str(id).")
    unique = set(ids)
    if len(unique) < rows or not unique.isdisjoint(seen):
        known = set(seen)
        twice = []
        for name in ids:
            if name in known:
                twice.append(name)
            known.add(name)
        raise ValueError(
            f"{len(twice)} ids occur twice: {listed(twice)}. An id names one row of a store; when resuming, skip the "
            "first `rows_written` items."
        )
    return ids


def check_embeddings(rows: np.ndarray, ids: Sequence[str], normalized: bool) -> None:
    """Refuse rows that have no direction, and rows of another length than one in a store of unit rows.

    Args:
        rows: `(n, dim)` in the store's dtype, so that an overflow or underflow of that dtype is found too.
        ids: Their ids, for the message.
        normalized: Whether the store promises unit rows.

    Raises:
        ValueError: With the ids, if a row is not finite, is zero, or is not of unit length.
    """
    step = max(8, _CHECKED_BYTES // (4 * rows.shape[1]))
    for start in range(0, len(rows), step):
        block = torch.from_numpy(rows[start : start + step])
        norms = torch.linalg.vector_norm(block.to(torch.promote_types(block.dtype, torch.float32)), dim=1)
        smallest, largest = norms.min().item(), norms.max().item()
        fine = 0 < smallest and largest < float("inf")  # a NaN makes min() NaN, and this False
        if fine and (not normalized or (smallest > 1 - UNIT_TOLERANCE and largest < 1 + UNIT_TOLERANCE)):
            continue
        names = ids[start : start + step]
        finite = torch.isfinite(block).all(1)
        zero = (block == 0).all(1)
        _refuse(~finite, names, f"hold NaN or infinity as {block.dtype}", "Drop them or embed those items again.")
        _refuse(zero, names, f"are all zero as {block.dtype}", "Drop them or embed those items again.")
        if normalized:
            _refuse(
                (norms - 1).abs() >= UNIT_TOLERANCE,
                names,
                f"are not of unit length (norms {smallest:.4g} to {largest:.4g})",
                "Normalise them, or open the writer with normalized=False.",
            )


def _refuse(bad: torch.Tensor, names: Sequence[str], what: str, todo: str) -> None:
    """Raise if any row is bad."""
    rows = bad.nonzero().flatten().tolist()
    if rows:
        raise ValueError(f"{len(rows)} rows {what}: id {listed([names[row] for row in rows])}. {todo}")
