"""Raw items from a table on disk: JSON lines, CSV or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["read_items"]

_READERS = (".jsonl", ".csv", ".tsv", ".parquet")


def read_items(
    path: str | Path,
    modality: str,
    *,
    column: str | None = None,
    id_column: str = "id",
    root: str | Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Read the rows of a table as items for `embed_items`, one at a time.

    Args:
        path: A `.jsonl`, `.csv`, `.tsv` or `.parquet` file.
        modality: Key under which the raw item goes on: `text`, `image`, ...
        column: Column that holds it; None takes the modality's name. For other modalities than text a string
            is a file's path.
        id_column: Column that holds the ids.
        root: Directory that paths of files are relative to; None takes the table's.

    Yields:
        Dicts with `id`, the raw item and the table's other columns.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind, or a row lacks a column; its number is named.
    """
    file = Path(path)
    if file.suffix not in _READERS:
        raise ValueError(f"{str(path)!r} is no table that can be read: give one of the kinds {', '.join(_READERS)}.")
    if not file.is_file():
        raise FileNotFoundError(f"no table of items at {str(path)!r}: check the path.")
    column = column or modality
    base = file.parent if root is None else Path(root)
    for number, row in enumerate(_rows(file), start=1):
        missing = [name for name in (id_column, column) if row.get(name) in (None, "")]
        if missing:
            raise ValueError(
                f"{path}, row {number} lacks {missing}; it has {sorted(row)}. Name the columns with "
                "`id_column` and `column`."
            )
        others = {k: v for k, v in row.items() if k not in (id_column, column)}
        raw = row[column]
        if modality != "text" and isinstance(raw, str):
            others[f"{modality}_file"] = raw
            raw = base / raw
        yield {**others, "id": str(row[id_column]), modality: raw}


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    if file.suffix == ".jsonl":
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        yield json.loads(line)
                    except json.JSONDecodeError as error:
                        raise ValueError(
                            f"{file}, line {number} is not JSON ({error}): write one object a line."
                        ) from error
    elif file.suffix == ".parquet":
        import pyarrow.parquet as pq

        # not through a dataset: one that is left before its end can take the interpreter down
        for batch in pq.ParquetFile(file).iter_batches(1024):
            yield from batch.to_pylist()
    else:
        import csv

        with file.open(encoding="utf-8", newline="") as lines:
            yield from csv.DictReader(lines, delimiter="\t" if file.suffix == ".tsv" else ",")
