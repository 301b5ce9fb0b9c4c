"""The files of a store: the manifest, the header of a shard, and writing that a kill cannot tear."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = [
    "DTYPES",
    "INDEX",
    "MANIFEST",
    "Manifest",
    "PartFile",
    "TENSOR",
    "read_index",
    "read_shard_header",
    "replace_atomically",
    "shard_header",
]

FORMAT = "hf_modalbridge.embedding_store"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
INDEX = "index.parquet"
TENSOR = "embeddings"
DTYPES = {
    "float16": ("F16", 2),
    "float32": ("F32", 4),
    "float64": ("F64", 8),
}  # numpy name: safetensors name, bytes

_MAX_HEADER = 1 << 20


@dataclass
class PartFile:
    """One file of a store: a shard, or a part of the index.

    Attributes:
        file: Its name inside the store.
        rows: Rows that it holds.
        sha256: Of the whole file.
    """

    file: str
    rows: int
    sha256: str


@dataclass
class Manifest:
    """What `manifest.json` says.

    Attributes:
        dim: Width of the embeddings.
        dtype: "float16", "float32" or "float64".
        normalized: Whether all rows have unit length.
        encoder: Fingerprint of the encoder, or None.
        shards: Shards in the order of the rows.
        index: Files of the index in the order of the rows.
        complete: False from the first shard until the writer is closed.
    """

    dim: int
    dtype: str
    normalized: bool = True
    encoder: dict[str, Any] | None = None
    shards: list[PartFile] = field(default_factory=list)
    index: list[PartFile] = field(default_factory=list)
    complete: bool = False

    @property
    def rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.rows for shard in self.shards)

    def write(self, folder: Path) -> None:
        """Write the manifest in one step.

        Args:
            folder: The store.
        """
        text = json.dumps(
            {"format": FORMAT, "format_version": FORMAT_VERSION, "rows": self.rows} | asdict(self), indent=2
        )
        temporary = folder / f".{MANIFEST}.tmp"
        temporary.write_text(text + "\n", encoding="utf-8")
        replace_atomically(temporary, folder / MANIFEST)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check the manifest of a store.

        Args:
            folder: The store.

        Returns:
            The manifest.

        Raises:
            FileNotFoundError: If the folder holds no manifest.
            ValueError: If the manifest is not one of this format.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} is no embedding store: it has no {MANIFEST}. Write one with `modalbridge embed` or "
                "EmbeddingStoreWriter."
            )
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] != FORMAT or data["format_version"] > FORMAT_VERSION:
                raise ValueError(f"format {data['format']!r} version {data['format_version']}")
            manifest = cls(
                dim=int(data["dim"]),
                dtype=str(data["dtype"]),
                normalized=bool(data["normalized"]),
                encoder=data["encoder"],
                shards=[PartFile(**part) for part in data["shards"]],
                index=[PartFile(**part) for part in data["index"]],
                complete=bool(data["complete"]),
            )
            if manifest.dtype not in DTYPES or manifest.dim < 1:
                raise ValueError(f"dim {manifest.dim}, dtype {manifest.dtype!r}")
            if manifest.rows != data["rows"]:
                raise ValueError(f"rows is {data['rows']}, but its shards add up to {manifest.rows}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a manifest of {FORMAT} version {FORMAT_VERSION} ({type(error).__name__}: {error}). It "
                "was edited by hand, damaged, or written by a newer version: update the package or copy the store "
                "again."
            ) from error
        return manifest


def shard_header(rows: int, dim: int, dtype: str) -> bytes:
    """Make the head of a safetensors file with the one tensor `embeddings`.

    Args:
        rows: Its rows.
        dim: Its width.
        dtype: Its numpy dtype by name.

    Returns:
        Length and JSON, padded so that the data is aligned to 64 bytes.
    """
    name, size = DTYPES[dtype]
    entry = {"dtype": name, "shape": [rows, dim], "data_offsets": [0, rows * dim * size]}
    text = json.dumps({TENSOR: entry}, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % 64)
    return len(text).to_bytes(8, "little") + text


def read_shard_header(path: Path, dim: int, dtype: str, rows: int) -> int:
    """Check one shard against what the manifest says about it.

    Args:
        path: The shard.
        dim: Expected width.
        dtype: Expected numpy dtype by name.
        rows: Expected rows.

    Returns:
        Offset of the data in the file, in bytes.

    Raises:
        FileNotFoundError: If the shard is missing.
        ValueError: If it is truncated, is no safetensors file, or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is named by the store's manifest but is missing. Copy the store again.")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            if not 2 <= length <= min(_MAX_HEADER, max(size - 8, 0)):
                raise ValueError(f"header of {length} bytes in a file of {size}")
            entry = json.loads(file.read(length))[TENSOR]
            found = (entry["dtype"], list(entry["shape"]), list(entry["data_offsets"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged: not a safetensors file with a tensor {TENSOR!r} ({error}). Copy the store again."
            ) from error
    code, item = DTYPES[dtype]
    expected = (code, [rows, dim], [0, rows * dim * item])
    if found != expected:
        raise ValueError(
            f"{path} disagrees with the store's manifest: the file holds {found[0]} {found[1]}, the manifest says "
            f"{expected[0]} {expected[1]}. The two come from different runs; copy the store again."
        )
    if size != 8 + length + expected[2][1]:
        raise ValueError(
            f"{path} is truncated or too long: {size} bytes, where its {rows} rows of {dim} {dtype} need "
            f"{8 + length + expected[2][1]}. Copy the store again."
        )
    return 8 + length


def read_index(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a part of the index, without what `pyarrow.parquet.read_table` imports (datasets and pandas).

    Args:
        path: The Parquet file.
        columns: Names of the columns to read; None for all.

    Returns:
        The table.
    """
    with pq.ParquetFile(path) as file:
        return file.read(columns)


def replace_atomically(temporary: Path, final: Path) -> None:
    """Put a finished temporary file in its place; a kill or power cut leaves the old one or the new one.

    Args:
        temporary: The finished file, in the folder of `final`.
        final: Its name from now on.
    """
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
