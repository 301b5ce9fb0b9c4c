"""Embeddings and captions from uploaded files: .npy, .npz, .safetensors, .parquet, .csv. Pickles are never read."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .uploads import MB, Limits, Refused, check_upload, open_archive, plain_name, read_array, refusals

__all__ = ["EMBEDDING_FILES", "TABLE_FILES", "Table", "read_embeddings", "read_table"]

EMBEDDING_FILES = (".npy", ".npz", ".safetensors", ".parquet")
TABLE_FILES = (".parquet", ".npz", ".csv", ".npy")

_EMBEDDINGS = ("embeddings", "embedding", "vectors", "features", "x")
_TEXT_EMBEDDINGS = ("text_embeddings", "text_embedding", "caption_embeddings", "caption_embedding")
_CAPTIONS = ("captions", "caption", "text", "texts", "label")


@dataclass
class Table:
    """Rows of a modality.

    Args:
        embeddings: `(rows, dim)` float32.
        captions: One a row.
        text_embeddings: `(rows, dim)` of the captions, by the same contrastive encoder; or None.
        name: To show.
        ids: One a row, where it has some.
        held_out: Rows to try on; None holds some of these back.
    """

    embeddings: np.ndarray = field(repr=False)
    captions: list[str] = field(repr=False)
    text_embeddings: np.ndarray | None = field(default=None, repr=False)
    name: str = "table"
    ids: list[str] | None = field(default=None, repr=False)
    held_out: Table | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.captions)


def read_embeddings(path: str | Path, limits: Limits) -> np.ndarray:
    """Read a file of embeddings.

    Args:
        path: A file with one of the endings `EMBEDDING_FILES`.
        limits: How much it may be.

    Returns:
        `(rows, dim)` float32.

    Raises:
        Refused: If it is not such a file, too large, or has rows of NaN, infinity or zeros.
    """
    name = plain_name(path)
    suffix = check_upload(path, EMBEDDING_FILES, limits)
    with refusals(path):
        columns = _READERS[suffix](Path(path), limits, False)
    found = _pick(columns, _EMBEDDINGS)
    if found is None:
        arrays = [key for key, value in columns.items() if isinstance(value, np.ndarray) and value.ndim == 2]
        if len(arrays) != 1:
            raise Refused(
                f"“{name}” holds {_listed(columns)}; expected one array (rows, width), or one named “embeddings”."
            )
        found = columns[arrays[0]]
    return _check_rows(found, name, limits)


def read_table(paths: Sequence[str | Path], limits: Limits) -> Table:
    """Read embeddings with captions, from one file or from two that belong together.

    Args:
        paths: A .parquet or .npz with embeddings and captions, or a .csv with captions and a .npy with embeddings.
        limits: How much they may be.

    Returns:
        The table.

    Raises:
        Refused: If there are no captions, no embeddings, or not equally many.
    """
    if not 1 <= len(paths) <= 3:
        raise Refused("Send one table (.parquet or .npz), or a .csv of captions with a .npy of embeddings.")
    columns: dict[str, Any] = {}
    for path in paths:
        suffix = check_upload(path, TABLE_FILES, limits)
        with refusals(path):
            read = _READERS[suffix](Path(path), limits, True)
        if suffix == ".npy":
            text = "text" in Path(path).stem.lower() or "caption" in Path(path).stem.lower()
            read = {"text_embeddings" if text and len(paths) > 2 else "embeddings": read["embeddings"]}
        columns.update(read)
    name = plain_name(paths[0])
    captions, embeddings = _pick(columns, _CAPTIONS), _pick(columns, _EMBEDDINGS)
    if captions is None or isinstance(captions, np.ndarray):
        raise Refused(f"“{name}” has no captions: it holds {_listed(columns)}. Expected text named “caption”.")
    if embeddings is None or not isinstance(embeddings, np.ndarray):
        raise Refused(
            f"“{name}” has no embeddings: it holds {_listed(columns)}. Expected lists of numbers named “embedding”, or "
            "a .npy file beside the .csv."
        )
    embeddings = _check_rows(embeddings, name, limits)
    texts = _pick(columns, _TEXT_EMBEDDINGS)
    if texts is not None:
        texts = _check_rows(texts, f"{name}, text embeddings", limits)
        if texts.shape != embeddings.shape:
            raise Refused(
                f"“{name}” has text embeddings {texts.shape} beside embeddings {embeddings.shape}; expected the same "
                "shape, from the two sides of one contrastive encoder."
            )
    if len(captions) != len(embeddings):
        raise Refused(f"“{name}” has {len(captions):,} captions for {len(embeddings):,} embeddings; give one a row.")
    return Table(embeddings, [_check_caption(c, i, name, limits) for i, c in enumerate(captions)], texts, name)


def _pick(columns: dict[str, Any], names: tuple[str, ...]) -> Any:
    lower = {key.lower(): value for key, value in columns.items()}
    return next((lower[name] for name in names if name in lower), None)


def _listed(columns: dict[str, Any]) -> str:
    shapes = {key: value.shape if isinstance(value, np.ndarray) else "text" for key, value in columns.items()}
    shown = [f"“{plain_name(key)}” {shape}" for key, shape in shapes.items()]
    return ", ".join(shown[:6]) + (" …" if len(shown) > 6 else "") or "nothing"


def _check_rows(values: Any, name: str, limits: Limits) -> np.ndarray:
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiu":
        shown = f"shape {values.shape} and type {values.dtype}" if isinstance(values, np.ndarray) else "text"
        raise Refused(f"“{name}” has {shown}; expected numbers, one row an item: (rows, width).")
    rows, dim = values.shape
    if rows < 2 or dim < 2:
        raise Refused(f"“{name}” has {rows} row(s) of width {dim}; expected two rows or more, of width two or more.")
    if rows > limits.rows or dim > limits.dim:
        raise Refused(
            f"“{name}” has {rows:,} rows of width {dim:,}; at most {limits.rows:,} rows of width {limits.dim:,} are "
            "taken here. The command line has no limit."
        )
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(values, np.float32)
    bad = ~np.isfinite(values).all(1)
    if bad.any():
        raise Refused(
            f"“{name}” has NaN or infinite numbers in {int(bad.sum()):,} of {rows:,} rows, first in row "
            f"{int(bad.argmax())}. Leave these rows out."
        )
    zero = ~values.any(1)
    if zero.any():
        raise Refused(
            f"“{name}” has {int(zero.sum()):,} of {rows:,} rows that are all zeros, first row {int(zero.argmax())}. "
            "Leave them out."
        )
    return values


def _check_caption(value: Any, row: int, name: str, limits: Limits) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split()) if value is not None else ""
    if not text:
        raise Refused(f"“{name}” has no caption in row {row}. Fill it in, or leave the row out.")
    if len(text) > limits.caption:
        raise Refused(
            f"“{name}” has a caption of {len(text):,} characters in row {row}; at most {limits.caption:,} are taken."
        )
    return text


def _read_npy(path: Path, limits: Limits, _: bool) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"embeddings": read_array(file, path.stat().st_size, plain_name(path), limits)}


def _read_npz(path: Path, limits: Limits, with_captions: bool) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    with open_archive(path, limits) as archive:
        for member in archive.infolist():
            key = plain_name(member.filename).removesuffix(".npy")
            if not member.filename.endswith(".npy"):
                raise Refused(f"“{plain_name(path)}” holds “{key}”, which is no array. Write it with numpy.savez.")
            with archive.open(member) as file:
                values = read_array(file, member.file_size, f"{plain_name(path)}: {key}", limits)  # type: ignore[arg-type]
            columns[key] = values.ravel().tolist() if values.dtype.kind == "U" else values
    return columns


def _read_safetensors(path: Path, limits: Limits, _: bool) -> dict[str, Any]:
    from safetensors import safe_open

    name, size = plain_name(path), path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, 1 * MB):
            raise Refused(f"“{name}” has a damaged header. Please save it again.")
        try:
            header = json.loads(file.read(length))
            shapes = {key: entry["shape"] for key, entry in header.items() if key != "__metadata__"}
            counts = [math.prod(int(n) for n in shape) for shape in shapes.values()]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise Refused(f"“{name}” has a damaged header. Please save it again.") from error
    if len(shapes) > 64 or sum(counts) > limits.numbers:
        raise Refused(
            f"“{name}” claims {len(shapes)} arrays with {sum(counts):,} numbers; at most {limits.numbers:,} are read."
        )
    with safe_open(path, "pt") as tensors:
        return {
            key: tensor.float().numpy()
            for key, tensor in ((key, tensors.get_tensor(key)) for key in shapes)
            if tensor.is_floating_point() or tensor.ndim == 2
        }


def _read_parquet(path: Path, limits: Limits, with_captions: bool) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = plain_name(path)
    limit = {"thrift_string_size_limit": 10 * MB, "thrift_container_size_limit": MB}
    with pq.ParquetFile(path, **limit) as file:
        schema, meta = file.schema_arrow, file.metadata
        if meta.num_rows > limits.rows:
            raise Refused(f"“{name}” has {meta.num_rows:,} rows; at most {limits.rows:,} are taken here.")
        lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        wanted = {f.name for f in schema if any(is_list(f.type) for is_list in lists) and _is_number(f.type.value_type)}
        texts = {f.name for f in schema if with_captions and f.name.lower() in _CAPTIONS and _is_text(f.type)}
        values = unpacked = 0
        for group in range(meta.num_row_groups):
            for i in range(meta.num_columns):
                column = meta.row_group(group).column(i)
                if column.path_in_schema.split(".")[0] in wanted | texts:
                    values, unpacked = values + column.num_values, unpacked + column.total_uncompressed_size
        if values > limits.numbers or unpacked > limits.unpacked_bytes:
            raise Refused(
                f"“{name}” claims {values:,} numbers in {unpacked / MB:,.0f} MB; at most {limits.numbers:,} and "
                f"{limits.unpacked_bytes / MB:,.0f} MB are read. Nothing of it was read."
            )
    # text stays a dictionary until it is known to be short: a long one repeated is small on disk only
    with pq.ParquetFile(path, read_dictionary=sorted(texts), **limit) as file:
        table = file.read(sorted(wanted | texts))
    columns: dict[str, Any] = {}
    for key in table.column_names:
        columns[key] = _strings(table[key], name, limits) if key in texts else _matrix(table[key], key, name)
    return columns


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))


def _strings(column: Any, name: str, limits: Limits) -> list[Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    for chunk in column.chunks:
        words = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
        longest = pc.max(pc.binary_length(words)).as_py() if len(words) else 0
        if (longest or 0) > 4 * limits.caption:
            raise Refused(f"“{name}” has a caption of {longest:,} bytes; at most {limits.caption:,} characters.")
    return column.to_pylist()


def _matrix(column: Any, key: str, name: str) -> np.ndarray:
    import pyarrow as pa

    rows = column.combine_chunks()
    flat = rows.flatten()
    if column.null_count or flat.null_count:
        raise Refused(f"“{name}” has missing values in the column “{plain_name(key)}”. Leave these rows out.")
    if not len(rows) or len(flat) % len(rows):
        raise Refused(f"“{name}” has lists of different lengths in the column “{plain_name(key)}”.")
    if not pa.types.is_fixed_size_list(rows.type):
        lengths = np.diff(rows.offsets.to_numpy())
        if (lengths != lengths[0]).any():
            raise Refused(f"“{name}” has lists of different lengths in the column “{plain_name(key)}”.")
    return flat.to_numpy(zero_copy_only=False).reshape(len(rows), -1)


def _read_csv(path: Path, limits: Limits, with_captions: bool) -> dict[str, Any]:
    name = plain_name(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"“{name}” is not UTF-8 text. Save it as CSV in UTF-8.") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        place = next((header.index(key) for key in _CAPTIONS if key in header), None)
        if place is None:
            raise Refused(f"“{name}” has no column “caption” in its first line.")
        captions = []
        for row in reader:
            if row:
                captions.append(row[place] if place < len(row) else "")
            if len(captions) > limits.rows:
                raise Refused(f"“{name}” has more than {limits.rows:,} rows; that many are taken here.")
    except csv.Error as error:
        raise Refused(f"“{name}” is no readable CSV ({error}).") from error
    return {"caption": captions}


_READERS = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}
