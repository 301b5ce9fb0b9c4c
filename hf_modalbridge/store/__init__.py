"""EmbeddingStore: sharded, memory-mapped embeddings on disk. Uses nothing else of this package.

A store is a directory:

    manifest.json               what is in it; rewritten atomically after each shard, so it is always true
    shard-00000.safetensors     one tensor `embeddings` (rows, dim); more shards follow
    index.parquet               column `id` and the user's own columns, one line a row, in the order of the
    rows

While a store is being written, and until its writer is closed, the index lies in one part a shard
(`index-00000.parquet`, ...), listed in the manifest; closing joins them. Vectors never go into Parquet.
"""

from __future__ import annotations

from hf_modalbridge.store.reader import EmbeddingStore
from hf_modalbridge.store.writer import EmbeddingStoreWriter

__all__ = ["EmbeddingStore", "EmbeddingStoreWriter"]
