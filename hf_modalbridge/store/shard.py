"""Write one shard: hashed and synced while the rows come, so that little is left to do at its end."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from hf_modalbridge.cached_files import file_sha256
from hf_modalbridge.store.manifest import shard_header

__all__ = ["ShardFile"]

_SYNC_BYTES = 32 << 20


class ShardFile:
    """A safetensors file under construction, with the one tensor `embeddings`.

    The header needs the number of rows in advance. It is written for the number foreseen; a shard that ends
    earlier gets its header corrected, which then has the same length by padding, and its hash from a second look.

    Args:
        path: Temporary name of the file.
        rows: How many rows are foreseen.
        dim: Their width.
        dtype: Their numpy dtype by name.
    """

    def __init__(self, path: Path, rows: int, dim: int, dtype: str) -> None:
        self._path, self._dim, self._dtype = path, dim, dtype
        self._header = shard_header(rows, dim, dtype)
        self._file = path.open("wb", buffering=0)
        self._hash = hashlib.sha256()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="shard")
        self._unsynced = 0
        self._sync: Future[None] | None = None
        self._write(memoryview(self._header))

    def write(self, rows: np.ndarray) -> None:
        """Append rows.

        Args:
            rows: C-contiguous `(n, dim)` in the shard's dtype.
        """
        self._write(rows.data.cast("B"))

    def close(self, rows: int) -> str:
        """Finish the file.

        Args:
            rows: How many rows were written.

        Returns:
            The sha256 of the file.
        """
        self._pool.shutdown()
        header = shard_header(rows, self._dim, self._dtype)
        as_foreseen = header == self._header
        if not as_foreseen:
            self._file.seek(0)
            self._file.write(self._header[:8] + header[8:].rstrip().ljust(len(self._header) - 8))
        self._file.close()
        return self._hash.hexdigest() if as_foreseen else file_sha256(self._path)

    def _write(self, view: memoryview) -> None:
        """Write bytes and hash them at the same time."""
        hashed = self._pool.submit(self._hash.update, view)
        self._unsynced += len(view)
        while len(view):
            view = view[self._file.write(view) :]
        if self._unsynced >= _SYNC_BYTES and (self._sync is None or self._sync.done()):
            # the disk works while the next rows are made; the last sync, by the renaming, is then short
            self._sync = self._pool.submit(os.fsync, self._file.fileno())
            self._unsynced = 0
        hashed.result()
