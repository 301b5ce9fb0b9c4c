"""The furniture point clouds of `demo_data/`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_modalbridge.demo.captions import split_files

__all__ = ["FurnitureClouds", "load_clouds"]


@dataclass(frozen=True)
class FurnitureClouds:
    """Rows of the table of clouds.

    Args:
        ids: The id of each object; its icon has the same one in the captions table.
        points: `(objects, 1024, 3)` float32, x right, y up, z depth, in the unit sphere.
        names: Short English names.
        captions: Captions.
        categories: One of twelve for each object.
    """

    ids: list[str]
    points: np.ndarray = field(repr=False)
    names: list[str] = field(repr=False)
    captions: list[str] = field(repr=False)
    categories: list[str] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)


def load_clouds(split: str, data_dir: str | Path | None = None) -> FurnitureClouds:
    """Read a split of the demo's furniture clouds.

    Args:
        split: "train", "validation" or "test".
        data_dir: Folder with `points/`; None for the repository's `demo_data/`.

    Returns:
        The rows.

    Raises:
        ValueError: If there is no such split.
        FileNotFoundError: If the data is not there.
    """
    files = split_files("points", split, data_dir)
    # ParquetFile, not read_table: that one imports datasets' pandas machinery for the Hugging Face metadata
    table = pa.concat_tables([pq.ParquetFile(file).read() for file in files])
    points = table["points"].combine_chunks().flatten().flatten().to_numpy(zero_copy_only=False)
    return FurnitureClouds(
        ids=table["id"].to_pylist(),
        points=points.reshape(len(table), -1, 3).astype(np.float32),
        names=table["name"].to_pylist(),
        captions=table["caption"].to_pylist(),
        categories=table["category"].to_pylist(),
    )
