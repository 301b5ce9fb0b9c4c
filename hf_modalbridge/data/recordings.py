"""Touch recordings with their materials, and the reader of the BioTac slide data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

__all__ = ["TouchRecordings", "load_biotac"]

_KEYS = ("x", "y", "n", "name", "desc")


@dataclass(frozen=True)
class TouchRecordings:
    """Recordings of a split.

    Args:
        ids: Such as "touch-cork-07".
        values: `(recordings, frames, channels)` float32.
        materials: Name of each recording's material.
        descriptions: Its sentence.
    """

    ids: list[str]
    values: np.ndarray = field(repr=False)
    materials: list[str] = field(repr=False)
    descriptions: list[str] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)


def load_biotac(path: str | Path, split: str) -> TouchRecordings:
    """Read slides of a BioTac over 20 materials (Gao et al., 2020; github.com/dexrob/BioTac_slide_20_50).

    The data have no stated licence: they are for measuring and come with no release of this package.

    Args:
        path: A .npz file with `x` `(recordings, 400, 44)` (tdc, tac, pdc, pac1 to pac22, ele1 to ele19 at 100 Hz), `y`
            material number, `n` recording number from 1 to 50, `name` and `desc` of each material.
        split: "train" for the recordings 1 to 40 of each material, "test" for 41 to 50.

    Returns:
        The recordings.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no such split, or the file lacks an array.
    """
    path = Path(path)
    if split not in ("train", "test"):
        raise ValueError(f"got split {split!r}; expected 'train' or 'test'.")
    if not path.is_file():
        raise FileNotFoundError(f"no file at {str(path)!r}; give the path of the recordings' .npz.")
    with np.load(path, allow_pickle=False) as arrays:
        missing = [key for key in _KEYS if key not in arrays.files]
        if missing:
            raise ValueError(f"{str(path)!r} lacks {', '.join(missing)}; expected the arrays {', '.join(_KEYS)}.")
        x, y, n, name, desc = (arrays[key] for key in _KEYS)
    kept = np.flatnonzero((n <= 40) == (split == "train"))
    kept = kept[np.lexsort([n[kept], y[kept]])]
    return TouchRecordings(
        ids=[f"biotac-{y[i]:02d}-{n[i]:02d}" for i in kept],
        values=x[kept].astype(np.float32),
        materials=[str(name[y[i]]) for i in kept],
        descriptions=[str(desc[y[i]]) for i in kept],
    )
