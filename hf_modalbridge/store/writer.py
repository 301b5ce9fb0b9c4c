"""Write an embedding store, shard by shard, so that a kill loses the unfinished shard at most."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hf_modalbridge.cached_files import file_sha256
from hf_modalbridge.fingerprint import fingerprints_match
from hf_modalbridge.store.checks import check_embeddings, check_ids, to_rows
from hf_modalbridge.store.manifest import (
    DTYPES,
    INDEX,
    MANIFEST,
    Manifest,
    PartFile,
    read_index,
    replace_atomically,
)
from hf_modalbridge.store.shard import ShardFile

__all__ = ["EmbeddingStoreWriter"]

_SHARD_TMP = ".shard.tmp"
_INDEX_TMP = ".index.tmp"


class EmbeddingStoreWriter:
    """Write embeddings, their ids and columns into a store.

    Rows go to a temporary file as they come and are hashed on the way; a full shard is synced to the disk,
    renamed and entered in the manifest, together with its part of the index. After a kill, open the writer
    with `resume=True` and go on with item number `rows_written`. Leaving the `with` block by an exception
    keeps all rows that were appended and leaves the store marked as incomplete.

    Args:
        path: Folder of the store.
        dim: Width of the embeddings.
        dtype: "float16", "float32" or "float64".
        normalized: Whether the rows have unit length; then that is checked.
        encoder: Fingerprint of the encoder that made the rows, or None.
        rows_per_shard: Rows in a full shard; also what a kill can lose.
        resume: Go on with the store that is there, complete or not; starts a new one if there is none.
        overwrite: Delete the store that is there, and nothing but a store.
        total_rows: How many rows the store will have, if known: the header of the last shard is then right
            from the start and its hash needs no second look.

    Raises:
        FileExistsError: If the folder holds something and neither `resume` nor `overwrite` fits.
        ValueError: If a store to be resumed has another width, dtype, flag or encoder.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        dim: int,
        dtype: str = "float16",
        normalized: bool = True,
        encoder: dict[str, Any] | None = None,
        rows_per_shard: int = 65536,
        resume: bool = False,
        overwrite: bool = False,
        total_rows: int | None = None,
    ) -> None:
        dtype = str(np.dtype(dtype)) if not isinstance(dtype, str) else dtype
        if dtype not in DTYPES or dim < 1 or rows_per_shard < 1:
            raise ValueError(
                f"a store has a dtype among {', '.join(DTYPES)}, dim >= 1 and rows_per_shard >= 1; got {dtype!r}, "
                f"{dim} and {rows_per_shard}."
            )
        self.path = Path(path)
        self._rows_per_shard = rows_per_shard
        self._total_rows = total_rows
        self._manifest = Manifest(dim=dim, dtype=dtype, normalized=normalized, encoder=encoder)
        self._seen: set[str] = set()
        self._schema: pa.Schema | None = None
        self._closed = False
        if resume and (self.path / MANIFEST).exists():
            self._resume()
        else:
            self._start(overwrite)
        self._reset_shard()

    @property
    def rows_written(self) -> int:
        """Rows in the store with those of the unfinished shard; after a resume, how many items to skip."""
        return self._manifest.rows + self._pending

    def append(
        self,
        ids: Sequence[str],
        embeddings: np.ndarray | torch.Tensor,
        columns: Mapping[str, Sequence[Any] | pa.ChunkedArray] | None = None,
        *,
        checked: bool = False,
    ) -> None:
        """Add rows. A batch is checked as a whole before any of it is written.

        Args:
            ids: One string a row, unique in the store.
            embeddings: `(n, dim)`; cast to the store's dtype.
            columns: Further columns of the index, the same names and types in every call.
            checked: Whether the caller made these rows finite and of unit length, so that there is no need to look.

        Raises:
            TypeError: If ids are no strings or embeddings no floating point numbers.
            ValueError: If a row is not finite, zero, of wrong width or length, an id occurs twice, or the
                columns are not those of the first call.
        """
        if self._closed:
            raise ValueError(f"the writer of {self.path} is closed. Open it again with resume=True to add rows.")
        rows = to_rows(embeddings, self._manifest.dim, self._manifest.dtype)
        names = check_ids(ids, len(rows), self._seen)
        if not checked:
            check_embeddings(rows, names, self._manifest.normalized)
        table = self._make_table(names, dict(columns or {}))
        self._seen.update(names)
        start = 0
        while start < len(rows):
            stop = min(len(rows), start + self._rows_per_shard - self._pending)
            self._write_rows(rows[start:stop])
            self._tables.append(table.slice(start, stop - start))
            self._pending += stop - start
            start = stop
            if self._pending == self._rows_per_shard:
                self._finish_shard()

    def close(self) -> None:
        """Write what is pending, join the index into one file and mark the store as complete.

        Raises:
            ValueError: If no row was ever written: an empty store is of no use to anyone.
        """
        if self._closed:
            return
        self._finish_shard()
        self._closed = True
        if not self._manifest.shards:
            raise ValueError(
                f"no row was written to {self.path}, and an empty store cannot be used. Check that the input has items."
            )
        parts = self._manifest.index
        if [part.file for part in parts] != [INDEX]:
            temporary = self.path / _INDEX_TMP
            assert self._schema is not None
            with pq.ParquetWriter(temporary, self._schema, use_dictionary=self._schema.names[1:]) as writer:
                for part in parts:  # one part in memory at a time
                    writer.write_table(read_index(self.path / part.file))
            joined = PartFile(INDEX, self._manifest.rows, file_sha256(temporary))
            replace_atomically(temporary, self.path / INDEX)
            self._manifest.index = [joined]
        self._manifest.complete = True
        self._manifest.write(self.path)
        for part in parts:
            if part.file != INDEX:
                (self.path / part.file).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif not self._closed:
            self._finish_shard()  # keep what was appended; the store stays incomplete
            self._closed = True

    def _start(self, overwrite: bool) -> None:
        """Begin a new store in an empty folder."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            if not overwrite and not self._is_barren():
                raise FileExistsError(
                    f"{self.path} exists and is not empty. Pass resume=True to go on with the store in it, "
                    "overwrite=True to replace it, or another path."
                )
            if not (self.path / MANIFEST).is_file():
                raise FileExistsError(
                    f"{self.path} is not an embedding store, so overwrite=True does not delete it. Choose another path."
                )
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._manifest.write(self.path)

    def _is_barren(self) -> bool:
        """Tell whether the folder holds what a writer leaves that was stopped before its first shard."""
        return (self.path / MANIFEST).is_file() and not Manifest.read(self.path).rows

    def _resume(self) -> None:
        """Take up the store that is there."""
        found = Manifest.read(self.path)
        for name in ("dim", "dtype", "normalized", "encoder"):
            old, new = getattr(found, name), getattr(self._manifest, name)
            if not (fingerprints_match(old, new) if name == "encoder" else old == new):
                raise ValueError(
                    f"cannot resume {self.path}: its {name} is {old!r}, and the rows to add have {new!r}. "
                    "Resume with the settings of the first run, or write to another path."
                )
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink()
        self._manifest = found
        for part in found.index:
            ids = read_index(self.path / part.file, ["id"]).column("id")
            self._seen.update(ids.to_pylist())
        if found.index:
            self._schema = pq.read_schema(self.path / found.index[0].file)
        if any(part.file == INDEX for part in found.index):
            # The joined index becomes the first part: index.parquet itself is only ever replaced as a whole
            # by close(), when the manifest no longer depends on the old one.
            part = found.index[0]
            part.file = self._part_name(0)
            temporary = self.path / _INDEX_TMP
            shutil.copyfile(self.path / INDEX, temporary)
            replace_atomically(temporary, self.path / part.file)
        found.complete = False
        found.write(self.path)

    def _part_name(self, number: int) -> str:
        return f"index-{number:05d}.parquet"

    def _reset_shard(self) -> None:
        self._pending = 0
        self._tables: list[pa.Table] = []
        self._file: ShardFile | None = None

    def _make_table(self, ids: list[str], columns: dict[str, Sequence[Any] | pa.ChunkedArray]) -> pa.Table:
        """Build the index lines of a batch and hold them to the schema of the first one."""
        if "id" in columns:
            raise ValueError("the column name 'id' is taken by the ids themselves. Rename that column.")
        for name, values in columns.items():
            if len(values) != len(ids):
                raise ValueError(f"column {name!r} has {len(values)} values for {len(ids)} rows. Give one a row.")
        builder = pa.lib.StringBuilder()  # pa.array would import pandas
        builder.append_values(ids)
        arrays = {"id": builder.finish()}
        try:
            for name, values in columns.items():
                kind = self._schema.field(name).type if self._schema and name in self._schema.names else None
                arrays[name] = values if isinstance(values, pa.ChunkedArray) else pa.array(list(values), kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"the column {name!r} has another type than in the first batch: {error}.") from error
        if self._schema is None:
            kinds = {name: array.type for name, array in arrays.items()}
            # A column without a value yet is taken for text, the commonest kind.
            kinds = {name: pa.string() if pa.types.is_null(kind) else kind for name, kind in kinds.items()}
            self._schema = pa.schema(kinds)
        if set(arrays) != set(self._schema.names):
            raise ValueError(
                f"columns differ from those of the first batch: got {sorted(columns)}, expected "
                f"{sorted(set(self._schema.names) - {'id'})}. Give the same columns in every call."
            )
        table = pa.Table.from_arrays([arrays[name] for name in self._schema.names], self._schema.names)
        return table if table.schema == self._schema else table.cast(self._schema)

    def _write_rows(self, rows: np.ndarray) -> None:
        """Send rows to the unfinished shard."""
        if self._file is None:
            left = self._rows_per_shard
            if self._total_rows is not None:
                left = max(1, min(left, self._total_rows - self._manifest.rows))
            self._file = ShardFile(self.path / _SHARD_TMP, left, self._manifest.dim, self._manifest.dtype)
        self._file.write(rows)

    def _finish_shard(self) -> None:
        """Close the shard and its index part, and enter both in the manifest."""
        if not self._pending:
            return
        assert self._file is not None
        temporary, number = self.path / _SHARD_TMP, len(self._manifest.shards)
        digest = self._file.close(self._pending)
        shard = PartFile(f"shard-{number:05d}.safetensors", self._pending, digest)
        replace_atomically(temporary, self.path / shard.file)
        table_tmp = self.path / _INDEX_TMP
        table = pa.concat_tables(self._tables)
        pq.write_table(table, table_tmp, use_dictionary=table.column_names[1:])  # ids never repeat
        part = PartFile(self._part_name(number), self._pending, file_sha256(table_tmp))
        replace_atomically(table_tmp, self.path / part.file)
        self._manifest.shards.append(shard)
        self._manifest.index.append(part)
        self._manifest.write(self.path)
        self._reset_shard()
