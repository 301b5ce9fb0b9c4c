"""Compact rows in memory: token ids of uneven length, and embeddings read from memory or from a store."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

__all__ = ["EmbeddingRows", "TokenRows"]

IN_MEMORY_BYTES = 2**31


class TokenRows:
    """Input ids and labels of rows of uneven length, end to end in two arrays."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._sizes: list[int] = []
        self._ids: np.ndarray | None = None

    def extend(self, batch: Any) -> None:
        """Add the rows of a batch that the processor padded.

        Args:
            batch: `input_ids`, `labels` and `attention_mask`, `(rows, length)`.
        """
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), strict=True):
            pair = torch.stack([ids[mask], labels[mask]]).to(torch.int32).numpy()  # (2, tokens)
            self._parts.append(pair)
            self._sizes.append(pair.shape[1])
        self._ids = None

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every row `(rows,)`."""
        return np.asarray(self._sizes, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        if self._ids is None:  # one array instead of a million small ones, once all rows are there
            self._ids = np.concatenate(self._parts, axis=1)
            self._starts = np.concatenate([[0], np.cumsum(self._sizes)])
            self._parts = [self._ids]
        ids, labels = torch.from_numpy(self._ids[:, self._starts[row] : self._starts[row + 1]]).long()
        return {"input_ids": ids, "labels": labels}


class EmbeddingRows:
    """Some rows of a store, array or tensor, as float32.

    Args:
        source: `EmbeddingStore`, array or tensor `(rows, dim)`.
        positions: Rows to use `(n,)`; None uses all.
        in_memory: Hold them in memory; None does so below 2 GiB.
    """

    def __init__(self, source: Any, positions: np.ndarray | None = None, in_memory: bool | None = None) -> None:
        self.source = source
        self.positions = np.arange(len(source)) if positions is None else np.asarray(positions)
        self.dim = int(source.dim if hasattr(source, "iter_batches") else source.shape[1])
        small = len(self.positions) * self.dim * 4 < IN_MEMORY_BYTES
        self._memory = self._read(self.positions) if (small if in_memory is None else in_memory) else None

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, rows: np.ndarray) -> torch.Tensor:
        """Rows `(n, dim)`, float32."""
        rows = np.asarray(rows)
        return self._memory[rows] if self._memory is not None else self._read(self.positions[rows])

    def _read(self, positions: np.ndarray) -> torch.Tensor:
        rows = self.source[positions]
        rows = rows.detach().cpu() if isinstance(rows, torch.Tensor) else torch.from_numpy(np.asarray(rows))
        return rows.float()
