"""Bring two sides into the same rows in the same order, by the ids of their stores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hf_modalbridge.corrections.streams import Embeddings
from hf_modalbridge.store import EmbeddingStore
from hf_modalbridge.store.pairing import match_pairs

__all__ = ["StoreRows", "join_pairs"]

Side = Embeddings | Sequence[Embeddings]


class StoreRows:
    """Some rows of a store in a given order, read block by block; an `EmbeddingSource`.

    Args:
        store: The store.
        positions: Rows of it `(n,)`.
    """

    def __init__(self, store: EmbeddingStore, positions: np.ndarray) -> None:
        self.store, self.positions = store, positions
        self.dim: int = store.dim
        self.encoder: Mapping[str, Any] | None = store.encoder

    def __len__(self) -> int:
        return len(self.positions)

    def iter_batches(self, batch_size: int, *, dtype: Any = None, **_: Any) -> Iterator[tuple[Any, Any]]:
        """Go once through the rows.

        Args:
            batch_size: Rows a batch.
            dtype: Of the batches; None for the store's own.

        Yields:
            Positions in the order of this object `(n,)` and rows `(n, dim)`.
        """
        for start in range(0, len(self), batch_size):
            rows = self.store[self.positions[start : start + batch_size]]
            yield np.arange(start, start + len(rows)), rows if dtype is None else rows.astype(dtype, copy=False)


def join_pairs(source: Side, target: Side, pairs: str | None = None) -> tuple[Side, Side]:
    """Join two stores on a column; anything else is left as it is, row i belonging to row i.

    Args:
        source: One side.
        target: The other.
        pairs: Column of both stores whose equal values pair rows; "id", the default, for the ids. Of several
            rows with one value the first counts.

    Returns:
        Both sides with as many rows, in the same order.

    Raises:
        KeyError: If a store lacks the column.
        ValueError: If no value occurs in both stores, or a column is named and a side is no store.
    """
    if isinstance(source, EmbeddingStore) and isinstance(target, EmbeddingStore):
        left, right = match_pairs(source, target, pairs or "id")
        return StoreRows(source, left), StoreRows(target, right)
    if pairs is not None:
        raise ValueError(
            f"pairs={pairs!r} names a column of two stores, got a {type(source).__name__} and a "
            f"{type(target).__name__}. Give two stores, or arrays whose rows correspond, without pairs=."
        )
    return source, target
