"""The captioned pictures of `demo_data/`, decoded one at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

__all__ = ["SPLITS", "CaptionedPictures", "describe", "load_captions", "split_files"]

SPLITS = ("train", "validation", "test")


class CaptionedPictures(Sequence):
    """Rows of the captions table; a picture is decoded when its row is read.

    Args:
        table: The rows, with the columns `id`, `image` (struct with `bytes`), `caption` and any others.
    """

    def __init__(self, table: pa.Table):
        self.table = table
        self.ids: list[str] = table["id"].to_pylist()
        self.captions: list[str] = table["caption"].to_pylist()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int | slice) -> Any:
        """Give a row as a dict whose `image` is a Pillow image, or a part of the rows for a slice."""
        if isinstance(index, slice):
            return CaptionedPictures(self.table.take(pa.array(range(len(self))[index], pa.int64())))
        position = range(len(self))[index]
        row = {name: self.table[name][position].as_py() for name in self.table.column_names}
        row["image"] = Image.open(BytesIO(row["image"]["bytes"]))
        return row

    @property
    def descriptions(self) -> list[str]:
        """The captions, each with up to four of its keywords behind a colon: "green pear: food, fruit"."""
        if "keywords" not in self.table.column_names:
            return list(self.captions)
        pairs = zip(self.captions, self.table["keywords"].to_pylist(), strict=True)
        return [describe(caption, keywords or ()) for caption, keywords in pairs]

    def column(self, name: str) -> list:
        """Read a whole column.

        Args:
            name: A column other than `image`.

        Returns:
            Its values in the rows' order.

        Raises:
            KeyError: If there is no such column.
        """
        return self.table[name].to_pylist()


def describe(caption: str, keywords: Iterable[str], limit: int = 4) -> str:
    """Put keywords behind a caption.

    Args:
        caption: The caption.
        keywords: Words or short phrases; those that the caption says already, and such as are no words, are left out.
        limit: How many at most.

    Returns:
        The caption, and the keywords behind a colon if any are left.
    """
    said, kept = set(re.findall(r"[a-z]+", caption.lower())), []
    for keyword in keywords:
        words = re.findall(r"[a-z]+", keyword.lower())
        if re.fullmatch(r"[A-Za-z]{3,}( [A-Za-z]+)*", keyword) and not said.issuperset(words):
            kept.append(" ".join(words))
            said.update(words)
    return f"{caption}: {', '.join(kept[:limit])}" if kept else caption


def demo_data_dir() -> Path:
    """Find `demo_data/`: `$MODALBRIDGE_DEMO_DATA`, the checkout this package runs from, or the working directory.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If it is in none of these places.
    """
    places = [Path(__file__).resolve().parents[2] / "demo_data", Path.cwd() / "demo_data"]
    if os.environ.get("MODALBRIDGE_DEMO_DATA"):
        places.insert(0, Path(os.environ["MODALBRIDGE_DEMO_DATA"]).expanduser())
    for place in places:
        if (place / "captions").is_dir():
            return place
    raise FileNotFoundError(
        "found no demo_data/captions; it is in the repository, not in the installed package. Run in a checkout, set "
        "MODALBRIDGE_DEMO_DATA, or build it with scripts/build_demo_data.py."
    )


def split_files(kind: str, split: str, data_dir: str | Path | None = None) -> list[Path]:
    """Find the files of a split of the demo's data.

    Args:
        kind: "captions" or "points".
        split: "train", "validation" or "test".
        data_dir: Folder with the kind's folder; None for the repository's `demo_data/`.

    Returns:
        Parquet files in order.

    Raises:
        ValueError: If there is no such split.
        FileNotFoundError: If the data is not there.
    """
    if split not in SPLITS:
        raise ValueError(f"got split {split!r}; expected one of {', '.join(SPLITS)}.")
    folder = (Path(data_dir) if data_dir is not None else demo_data_dir()) / kind
    files = sorted(folder.glob(f"{split}-*.parquet"))
    if not files:
        raise FileNotFoundError(f"no {split}-*.parquet in {folder}; build the data with scripts/build_demo_data.py.")
    return files


def load_captions(split: str, data_dir: str | Path | None = None) -> CaptionedPictures:
    """Read a split of the demo's captioned pictures.

    Args:
        split: "train", "validation" or "test".
        data_dir: Folder with `captions/`; None for the repository's `demo_data/`.

    Returns:
        Rows with `id`, `image` (a Pillow image, decoded when read), `caption`, `source`, `creator`, `license` and more.

    Raises:
        ValueError: If there is no such split.
        FileNotFoundError: If the data is not there.
    """
    files = split_files("captions", split, data_dir)
    return CaptionedPictures(pa.concat_tables([pq.read_table(file) for file in files]))
