"""Find which rows of two stores belong together."""

from __future__ import annotations

import numpy as np

from hf_modalbridge.store.reader import EmbeddingStore

__all__ = ["match_pairs"]


def match_pairs(
    source: EmbeddingStore, target: EmbeddingStore, column: str = "id", limit: int | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Match rows by equal values of a column.

    Args:
        source: One store.
        target: The other one.
        column: Column of both, "id" for the ids. Of several rows with one value the first counts.
        limit: Draw at most so many pairs.
        seed: Of the draw.

    Returns:
        Positions `(n,)` in the source and in the target.

    Raises:
        KeyError: If a store has no such column.
        ValueError: If no value occurs in both.
    """
    values, others = source.column(column), target.column(column)
    first = dict(zip(reversed(others), range(len(others) - 1, -1, -1), strict=True))
    matched: dict[object, tuple[int, int]] = {}
    for position, value in enumerate(values):
        if value is not None and value in first:
            matched.setdefault(value, (position, first[value]))
    if not matched:
        raise ValueError(
            f"no value of the column {column!r} occurs in both {source.path} and {target.path} (first values: "
            f"{values[0]!r} and {others[0]!r}). Name a column that pairs their rows."
        )
    pairs = np.array(list(matched.values()))
    if limit is not None and len(pairs) > limit:
        pairs = pairs[np.sort(np.random.default_rng(seed).choice(len(pairs), limit, replace=False))]
    return pairs[:, 0], pairs[:, 1]
