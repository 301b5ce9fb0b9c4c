"""Small stores for the tests of this folder."""

from __future__ import annotations

import numpy as np

from hf_modalbridge import EmbeddingStore, EmbeddingStoreWriter


def unit_rows(rows: int, dim: int = 12, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(rows, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def write(path, rows: np.ndarray, batch: int = 7, first: int = 0, **kwargs) -> EmbeddingStore:
    with EmbeddingStoreWriter(path, dim=rows.shape[1], **{"rows_per_shard": 10, "dtype": "float32"} | kwargs) as writer:
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            ids = [f"item-{first + start + i}" for i in range(len(part))]
            writer.append(ids, part, {"text": [f"caption {i}" for i in ids], "label": [len(i) for i in ids]})
    return EmbeddingStore.open(path)
