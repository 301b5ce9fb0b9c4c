"""Read an embedding store, memory-mapped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hf_modalbridge.cached_files import file_sha256
from hf_modalbridge.store.checks import listed
from hf_modalbridge.store.manifest import MANIFEST, Manifest, read_index, read_shard_header
from hf_modalbridge.store.sharing import HubStore

__all__ = ["EmbeddingStore"]


class EmbeddingStore(HubStore):
    """Embeddings on disk: rows by position, slice or id, in batches, with ids and columns.

    Made by `EmbeddingStore.open`. Rows come back in the store's own dtype unless another is asked for. Only
    what is asked for is read.
    """

    def __init__(self, path: Path, manifest: Manifest, offsets: list[int]) -> None:
        self.path = path
        self.manifest = manifest
        self._offsets = offsets
        self._starts = np.cumsum([0] + [shard.rows for shard in manifest.shards])  # (shards + 1,)
        self._maps: dict[int, np.ndarray] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, allow_incomplete: bool = False) -> Self:
        """Open a store and check its files against the manifest: presence, sizes, shapes and counts.

        Args:
            path: Folder of the store.
            allow_incomplete: Also open a store whose writer was stopped; it has the finished shards.

        Returns:
            The store. `verify()` goes on to check every byte.

        Raises:
            FileNotFoundError: If there is no store or a file of it is missing.
            ValueError: If the store is empty, incomplete, or disagrees with its manifest.
        """
        folder = Path(path)
        manifest = Manifest.read(folder)
        if not manifest.complete and not allow_incomplete:
            raise ValueError(
                f"the store {folder} is incomplete: its writer was stopped after {manifest.rows} rows. Run that "
                "command again to go on (resume=True), or open it with allow_incomplete=True to use those rows."
            )
        if not manifest.rows:
            raise ValueError(f"the store {folder} is empty: its manifest lists no rows. Write it again.")
        offsets = [
            read_shard_header(folder / shard.file, manifest.dim, manifest.dtype, shard.rows)
            for shard in manifest.shards
        ]
        for part in manifest.index:
            if not (folder / part.file).is_file():
                raise FileNotFoundError(
                    f"{folder / part.file} is named by {MANIFEST} but is missing. Copy the store again."
                )
            try:
                found = pq.read_metadata(folder / part.file).num_rows
            except (pa.ArrowInvalid, OSError) as error:
                raise ValueError(f"{folder / part.file} is damaged: {error}. Copy the store again.") from error
            if found != part.rows:
                raise ValueError(
                    f"{folder / part.file} has {found} lines, but {MANIFEST} says {part.rows}: they come from "
                    "different runs. Copy the store again."
                )
        if sum(part.rows for part in manifest.index) != manifest.rows:
            raise ValueError(
                f"{folder / MANIFEST} lists {manifest.rows} rows of embeddings and "
                f"{sum(part.rows for part in manifest.index)} lines of index. Copy the store again."
            )
        return cls(folder, manifest, offsets)

    def __len__(self) -> int:
        return self.manifest.rows

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.path)!r}, rows={len(self)}, dim={self.dim}, dtype={self.dtype})"

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.manifest.dim

    @property
    def dtype(self) -> np.dtype:
        """Numpy dtype of the embeddings."""
        return np.dtype(self.manifest.dtype)

    @property
    def normalized(self) -> bool:
        """Whether all rows have unit length."""
        return self.manifest.normalized

    @property
    def encoder(self) -> dict[str, Any] | None:
        """Fingerprint of the encoder that made the rows, if it was recorded."""
        return self.manifest.encoder

    @cached_property
    def table(self) -> pa.Table:
        """The index: column `id` and the user's own, in the order of the rows."""
        return pa.concat_tables([read_index(self.path / part.file) for part in self.manifest.index])

    @cached_property
    def ids(self) -> list[str]:
        """Ids in the order of the rows."""
        return self.column("id")

    @cached_property
    def columns(self) -> list[str]:
        """Names of the user's own columns."""
        return [name for name in pq.read_schema(self.path / self.manifest.index[0].file).names if name != "id"]

    def column(self, name: str) -> list[Any]:
        """Read one column of the index.

        Args:
            name: "id" or one of `columns`.

        Returns:
            One value a row.

        Raises:
            KeyError: If there is no such column.
        """
        if name != "id" and name not in self.columns:
            raise KeyError(f"the store {self.path} has no column {name!r}; it has id, {', '.join(self.columns)}.")
        parts = [read_index(self.path / part.file, [name]) for part in self.manifest.index]
        return pa.concat_tables(parts).column(name).to_pylist()

    def positions(self, ids: Sequence[str]) -> np.ndarray:
        """Find rows by id.

        Args:
            ids: Ids of the store.

        Returns:
            Their positions `(n,)`, int64, in the order asked for.

        Raises:
            KeyError: Listing the ids that the store lacks.
        """
        missing = [name for name in ids if name not in self._position]
        if missing:
            raise KeyError(
                f"{len(missing)} of {len(ids)} ids are not in the store {self.path}: {listed(missing)}. Embed them, or "
                "drop the rows that refer to them."
            )
        return np.fromiter((self._position[name] for name in ids), np.int64, len(ids))

    def __getitem__(self, key: int | slice | str | Sequence[int] | Sequence[str] | np.ndarray) -> np.ndarray:
        """Read rows.

        Args:
            key: A position or an id gives `(dim,)`; a slice, positions or ids give `(n, dim)`.

        Returns:
            A copy in the store's dtype.

        Raises:
            IndexError: If a position is out of range.
            KeyError: If an id is missing.
        """
        if isinstance(key, str):
            return self._take(self.positions([key]))[0]
        if isinstance(key, int | np.integer):
            return self._take(self._in_range(np.asarray([key])))[0]
        if isinstance(key, slice):
            return self._take(np.arange(*key.indices(len(self))))
        if isinstance(key, torch.Tensor):
            key = key.cpu().numpy()
        if len(key) and isinstance(key[0], str):
            return self._take(self.positions(list(key)))  # type: ignore[arg-type]
        wanted = np.asarray(key)
        if wanted.dtype == bool:
            if wanted.shape != (len(self),):
                raise IndexError(f"a mask over {len(self)} rows needs that shape, got {wanted.shape}.")
            wanted = wanted.nonzero()[0]
        elif wanted.size and wanted.dtype.kind not in "iu":
            raise TypeError(f"a store is read by positions, ids, a slice or a mask, not by {wanted.dtype} values.")
        return self._take(self._in_range(wanted.astype(np.int64)))

    def iter_batches(
        self,
        batch_size: int,
        *,
        dtype: np.dtype | type | str | None = np.float32,
        shuffle: bool = False,
        seed: int = 0,
        buffers: int = 0,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Go once through all rows; memory does not grow with their number.

        Args:
            batch_size: Rows a batch; the last one may be shorter.
            dtype: Of the batches; None for the store's own, without conversion.
            shuffle: In the order of a permutation drawn from `seed`. Positions are sorted inside a batch,
                which makes reading fast and does not change which rows meet in a batch.
            seed: Of the permutation.
            buffers: Without shuffling: give views of this many buffers in turn, each overwritten when its
                turn comes again; 0 for new memory with every batch.

        Yields:
            Positions `(n,)` and embeddings `(n, dim)`.

        Raises:
            ValueError: If `batch_size` is below one.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if not shuffle:
            for start, rows in self._read_in_order(batch_size, buffers):
                positions = np.arange(start, start + len(rows))
                yield positions, rows if dtype is None else rows.astype(dtype, copy=False)
            return
        order = np.random.default_rng(seed).permutation(len(self))
        for start in range(0, len(self), batch_size):
            positions = np.sort(order[start : start + batch_size])
            rows = self._take(positions)
            yield positions, rows if dtype is None else rows.astype(dtype, copy=False)

    def verify(self) -> None:
        """Read all files and compare their sha256 with the manifest.

        Raises:
            ValueError: If a file's bytes are not those that were written.
        """
        for part in [*self.manifest.shards, *self.manifest.index]:
            found = file_sha256(self.path / part.file)
            if found != part.sha256:
                raise ValueError(
                    f"{self.path / part.file} was changed after it was written: sha256 {found[:12]}..., the manifest "
                    f"says {part.sha256[:12]}.... Copy the store again."
                )

    @cached_property
    def _position(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.ids)}

    def _in_range(self, wanted: np.ndarray) -> np.ndarray:
        """Resolve negative positions and refuse those out of range."""
        rows = len(self)
        bad = wanted[(wanted < -rows) | (wanted >= rows)]
        if bad.size:
            raise IndexError(f"position {bad[0]} is out of range for the store {self.path} of {rows} rows.")
        return np.where(wanted < 0, wanted + rows, wanted)

    def _map(self, shard: int) -> np.ndarray:
        """Map a shard's tensor into memory."""
        if shard not in self._maps:
            entry = self.manifest.shards[shard]
            self._maps[shard] = np.memmap(
                self.path / entry.file, self.dtype, "r", self._offsets[shard], (entry.rows, self.dim)
            )
        return self._maps[shard]

    def _take(self, positions: np.ndarray) -> np.ndarray:
        """Copy rows out of the maps."""
        out = np.empty((len(positions), self.dim), self.dtype)
        owner = np.searchsorted(self._starts, positions, side="right") - 1
        for shard in np.unique(owner):
            mine = owner == shard
            out[mine] = self._map(int(shard))[positions[mine] - self._starts[shard]]
        return out

    def _read_in_order(self, batch_size: int, buffers: int) -> Iterator[tuple[int, np.ndarray]]:
        """Read batches in order by plain reads: mapped pages would count as memory of the process."""
        row_bytes = self.dim * self.dtype.itemsize
        shard, file = -1, None
        shape = (min(batch_size, len(self)), self.dim)
        ring = [np.empty(shape, self.dtype) for _ in range(buffers)]
        try:
            for start in range(0, len(self), batch_size):
                count = min(batch_size, len(self) - start)
                buffer = ring[start // batch_size % buffers] if ring else np.empty(shape, self.dtype)
                filled = 0
                while filled < count:
                    owner = int(np.searchsorted(self._starts, start + filled, side="right")) - 1
                    if owner != shard:
                        if file is not None:
                            file.close()
                        file = (self.path / self.manifest.shards[owner].file).open("rb", buffering=0)
                        shard = owner
                        file.seek(self._offsets[owner] + (start + filled - int(self._starts[owner])) * row_bytes)
                    assert file is not None
                    take = min(count - filled, int(self._starts[owner + 1]) - start - filled)
                    view = buffer[filled : filled + take].data.cast("B")
                    while len(view):
                        read = file.readinto(view)
                        if not read:
                            raise ValueError(f"{file.name} ended early: it was truncated while being read.")
                        view = view[read:]
                    filled += take
                yield start, buffer[:count]
        finally:
            if file is not None:
                file.close()
