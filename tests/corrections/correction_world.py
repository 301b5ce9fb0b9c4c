"""Embeddings with a modality gap, and ReAlign as its paper writes it, for the tests of this folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from hf_modalbridge import EmbeddingStore, EmbeddingStoreWriter

CLIP_FILE = "features_clip.npy"


def two_sides(rows: int = 700, others: int = 500, dim: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows of two sides with different means and different anisotropic spreads, float64."""
    rng = np.random.default_rng(seed)
    sides = []
    for count, power in ((rows, 0.7), (others, 1.1)):
        basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
        spread = np.arange(1, dim + 1) ** -power
        x = rng.normal(size=(count, dim)) * spread @ basis + 0.7 * rng.normal(size=dim) / dim**0.5
        sides.append(x / np.linalg.norm(x, axis=1, keepdims=True))
    return sides[0], sides[1]


def naive_realign(source: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """ReAlign, arXiv 2602.07026 section 4, written out row by row in float64."""

    def n(v):
        return v / np.sqrt(np.sum(v * v))

    y, x = [np.stack([n(row) for row in side.astype(np.float64)]) for side in (source, target)]
    mu_x, mu_y = x.mean(0), y.mean(0)
    t_x = np.mean([np.sum((row - mu_x) ** 2) for row in x])
    t_y = np.mean([np.sum((row - mu_y) ** 2) for row in y])
    s = np.sqrt(t_x / (t_y + 1e-10))
    first = np.stack([n(mu_x + s * (row - mu_y)) for row in y])
    drift = first.mean(0)
    out = np.stack([n(row - drift + mu_x) for row in first])
    return {"mu_x": mu_x, "mu_y": mu_y, "t_x": t_x, "t_y": t_y, "s": s, "drift": drift, "out": out}


def clip_features() -> np.ndarray | None:
    """Real CLIP embeddings (2, 500, 512), images and captions, where this machine has them."""
    folder = os.environ.get("MODALBRIDGE_SHARED_DATA")
    path = Path(folder) if folder else Path(__file__).resolve().parents[3] / "shared" / "data"
    return np.load(path / CLIP_FILE, allow_pickle=False) if (path / CLIP_FILE).is_file() else None


def make_store(path, rows: np.ndarray, encoder: dict | None = None, **kwargs) -> EmbeddingStore:
    """Write a store of several shards."""
    settings = {"dtype": "float64", "rows_per_shard": 150} | kwargs
    with EmbeddingStoreWriter(path, dim=rows.shape[1], encoder=encoder, **settings) as writer:
        writer.append([str(i) for i in range(len(rows))], rows, {"text": [f"caption {i}" for i in range(len(rows))]})
    return EmbeddingStore.open(path)


def fingerprint(id: str = "clip", modality: str = "text", dim: int = 24, first: float = 1.0) -> dict:
    """A fingerprint as the encoders' room makes them."""
    probe = [first, 0.5, -1.25, 0.75, 0.1, -0.6, 1.5, 0.0]
    return {
        "id": id,
        "revision": "main",
        "modality": modality,
        "dim": dim,
        "normalized": True,
        "probe": probe,
    }


def double(x: np.ndarray) -> torch.Tensor:
    """A float64 tensor."""
    return torch.from_numpy(np.asarray(x, dtype=np.float64))
