"""Pairs of two modalities as token features, from embedding stores and captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .rows import EmbeddingRows

__all__ = ["PairBatches", "PairSets", "StoreFeatures", "TextFeatures", "pair_rows"]


class TextFeatures:
    """Captions as the frozen input embeddings of a language model's tokens.

    A caption that is shorter than `num_tokens` is said again until they are full. The decoder that learns these
    tokens always writes that many into the language model's prompt, so each of them has to mean something.

    Args:
        captions: One a row.
        tokenizer: The language model's; no special tokens are added.
        table: Its input embeddings `(vocabulary, dim)`; the rows that occur are copied.
        num_tokens: Longer captions are cut.

    Raises:
        ValueError: If a caption has no token.
    """

    def __init__(self, captions: Sequence[str], tokenizer: Any, table: Tensor, num_tokens: int) -> None:
        rows = [ids[:num_tokens] for ids in tokenizer(list(captions), add_special_tokens=False)["input_ids"]]
        empty = [i for i, ids in enumerate(rows) if not ids]
        if empty:
            raise ValueError(f"captions {empty[:10]} have no token: leave these pairs out.")
        used = sorted({i for ids in rows for i in ids})
        place = {token: i for i, token in enumerate(used)}
        self.vectors = table.detach()[used].float().cpu()  # (used, dim)
        self.ids = np.array([[place[ids[k % len(ids)]] for k in range(num_tokens)] for ids in rows])
        self.dim = self.vectors.shape[1]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: np.ndarray) -> tuple[Tensor, None]:
        """Features `(n, num_tokens, dim)`, and no mask."""
        return self.vectors[torch.from_numpy(self.ids[rows])], None


class StoreFeatures:
    """Rows of a store whose embeddings are items' tokens end to end.

    Args:
        store: `EmbeddingStore`, or an array `(rows, tokens * dim)`.
        num_tokens: Tokens of an item.
        normalize: Whether tokens are made unit rows.
        positions: Rows to use `(n,)`; None uses all.

    Raises:
        ValueError: If the rows cannot be cut into that many tokens.
    """

    def __init__(
        self, store: Any, num_tokens: int, normalize: bool = False, positions: np.ndarray | None = None
    ) -> None:
        self.normalize = normalize
        self.rows = EmbeddingRows(store, positions)
        if self.rows.dim % num_tokens:
            raise ValueError(
                f"the store {str(getattr(store, 'path', 'given'))!r} has rows of width {self.rows.dim}, which are not "
                f"{num_tokens} tokens end to end: correct num_tokens, or embed the items again."
            )
        self.num_tokens, self.dim = num_tokens, self.rows.dim // num_tokens

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Features `(n, num_tokens, dim)`, and no mask."""
        tokens = self.rows[rows].view(len(rows), self.num_tokens, self.dim)
        return (torch.nn.functional.normalize(tokens, dim=-1) if self.normalize else tokens), None


def pair_rows(source: Sequence[Any], target: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Pair the rows of two tables by equal keys.

    Args:
        source: Key of each source row; several may have the same.
        target: Key of each target row; of several with the same the first counts.

    Returns:
        Positions `(n,)` in both, in the order of the source.

    Raises:
        ValueError: If no key occurs in both.
    """
    first: dict[Any, int] = {}
    for position, key in enumerate(target):
        first.setdefault(key, position)
    pairs = [(i, first[key]) for i, key in enumerate(source) if key in first]
    if not pairs:
        raise ValueError(
            f"no key occurs on both sides of a pair of modalities (first keys {source[0]!r} and {target[0]!r}): name "
            "the column that pairs their rows."
        )
    positions = np.asarray(pairs)
    return positions[:, 0], positions[:, 1]


class PairSets:
    """The pairs of several edges, one after the other.

    Args:
        edges: `{modality: features}` of both sides of each edge, with as many rows; a third entry is refused.
    """

    def __init__(self, edges: Sequence[dict[str, Any]]) -> None:
        for edge in edges:
            if len(edge) != 2 or len({len(side) for side in edge.values()}) != 1:
                raise ValueError(
                    f"an edge has { ({name: len(side) for name, side in edge.items()}) } rows; expected two modalities "
                    "with as many rows."
                )
        self.edges = list(edges)
        self.sizes = [len(next(iter(edge.values()))) for edge in self.edges]
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        """Make the batch of rows of one edge: `features`, `masks` as `PairwiseAligner` takes them, and `ids`."""
        index = int(np.searchsorted(self.starts, rows[0], side="right")) - 1
        local = np.asarray(rows) - self.starts[index]
        if local.min() < 0 or local.max() >= self.sizes[index]:
            raise ValueError("a batch of pairs has rows of several edges; each step takes one.")
        batch: dict[str, Any] = {"features": {}, "masks": {}, "ids": [str(row) for row in rows]}
        for name, side in self.edges[index].items():
            batch["features"][name], mask = side[local]
            if mask is not None:
                batch["masks"][name] = mask
        return batch

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        return [self.batch(rows)]

    @staticmethod
    def collate(batches: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch that `__getitems__` made."""
        return batches[0]


class PairBatches:
    """Pairs in whole batches, each of one edge, for a held-out loss.

    Args:
        pairs: The pairs.
        batch_size: Most pairs of a batch.
    """

    def __init__(self, pairs: PairSets, batch_size: int) -> None:
        self.pairs = pairs
        self.parts = [
            list(range(start, min(start + batch_size, int(stop))))
            for first, stop in zip(pairs.starts[:-1], pairs.starts[1:], strict=True)
            for start in range(int(first), int(stop), batch_size)
        ]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.pairs.batch(self.parts[index])
