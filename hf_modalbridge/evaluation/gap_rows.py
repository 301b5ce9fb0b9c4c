"""Rows of one side of a report: read in blocks or by position, through a correction if there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_modalbridge.corrections.streams import EmbeddingSource, RowStream
from hf_modalbridge.functional.geometry import check_rows

__all__ = ["RowSubset", "Rows", "row_ids"]

_BLOCK = 4096


class RowSubset:
    """Some rows of an array, tensor or store, read like a store; nothing is copied until it is asked for.

    Args:
        data: Array, tensor or store.
        positions: `(n,)` rows of it, in the order that they shall have.
    """

    def __init__(self, data: Any, positions: Any) -> None:
        self.data, self.chosen = data, np.asarray(positions, dtype=np.int64)
        self.dim = int(data.dim if isinstance(data, EmbeddingSource) else data.shape[1])
        self.encoder: Mapping[str, Any] | None = getattr(data, "encoder", None)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Read rows by position, slice or mask."""
        return np.asarray(_take(self.data, self.chosen[np.asarray(key) if not isinstance(key, slice) else key]))

    @property
    def normalized(self) -> bool | None:
        """What the store says of its rows; None for arrays."""
        return getattr(self.data, "normalized", None)

    @property
    def ids(self) -> list[str] | None:
        """Ids of the rows, if the data has some."""
        ids = row_ids(self.data)
        return None if ids is None else [ids[i] for i in self.chosen]

    @property
    def path(self) -> Any:
        """Where the store is, for messages."""
        return getattr(self.data, "path", "an array")

    def column(self, name: str) -> list[Any]:
        """Read one column of the store's index for these rows.

        Args:
            name: "id" or a column of the store.

        Returns:
            One value a row.

        Raises:
            KeyError: If there is no such column.
        """
        values = self.data.column(name)
        return [values[i] for i in self.chosen]

    def iter_batches(
        self, batch_size: int, *, dtype: Any = np.float32, reuse_buffer: bool = False, buffers: int = 0
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Go once through the rows.

        Args:
            batch_size: Rows a batch.
            dtype: Of the batches; None for the data's own.
            reuse_buffer: Without meaning here; each batch is new memory.
            buffers: The same.

        Yields:
            Positions `(n,)` in this subset and rows `(n, dim)`.
        """
        for start in range(0, len(self), batch_size):
            rows = self[slice(start, start + batch_size)]
            yield np.arange(start, start + len(rows)), rows if dtype is None else rows.astype(dtype, copy=False)


class Rows:
    """Rows of one side, any number of times; one block in memory.

    Args:
        data: Array, tensor, store, or a list of such parts of one width.
        what: What they are, for messages.
        through: Function of checked rows `(n, dim)`, such as a correction; None for the rows themselves.

    Raises:
        TypeError: If the data is of another kind.
        ValueError: If it is empty or parts differ in width.
    """

    def __init__(self, data: Any, what: str, through: Callable[[Tensor], Tensor] | None = None) -> None:
        stream = RowStream(data, what)
        self.parts, self.rows, self.dim, self.encoder = stream.parts, stream.rows, stream.dim, stream.encoder
        self.what, self.through = what, through

    def __len__(self) -> int:
        return self.rows

    def moved(self, through: Callable[[Tensor], Tensor], what: str) -> Rows:
        """Give the same rows through a function.

        Args:
            through: The function.
            what: What the result is, for messages.

        Returns:
            The rows, not computed yet.
        """
        return Rows(list(self.parts), what, through)

    @property
    def ids(self) -> list[str] | None:
        """Ids of the rows if every part has some."""
        found = [row_ids(part) for part in self.parts]
        return None if any(ids is None for ids in found) else [name for ids in found for name in ids or []]

    @property
    def normalized(self) -> bool:
        """False if a store among the parts says that its rows have other lengths than one."""
        return not any(getattr(part, "normalized", None) is False for part in self.parts)

    def raw_blocks(self) -> Iterator[Tensor]:
        """Yield blocks of the rows as they are stored, `(n, dim)`."""
        for part in self.parts:
            if isinstance(part, Tensor):
                yield from (rows.cpu() for rows in part.split(_BLOCK))
            else:
                yield from (torch.from_numpy(rows) for _, rows in part.iter_batches(_BLOCK, dtype=None))

    def blocks(self) -> Iterator[Tensor]:
        """Yield blocks `(n, dim)`, float32 or float64, through the function."""
        start = 0
        for rows in self.raw_blocks():
            yield self._finish(rows, range(start, start + len(rows)))
            start += len(rows)

    def take(self, positions: Tensor) -> Tensor:
        """Read rows.

        Args:
            positions: `(n,)` int64.

        Returns:
            `(n, dim)` float32 or float64, through the function.
        """
        starts = np.cumsum([0] + [len(part) for part in self.parts])
        wanted = positions.numpy()
        owner = np.searchsorted(starts, wanted, side="right") - 1
        pieces, order = [], []
        for number in np.unique(owner):
            mine = np.nonzero(owner == number)[0]
            for piece in np.array_split(mine, max(1, -(-len(mine) // _BLOCK))):
                rows = torch.as_tensor(_take(self.parts[number], wanted[piece] - starts[number]))
                pieces.append(self._finish(rows, wanted[piece].tolist()))
                order.append(piece)
        return torch.cat(pieces)[torch.from_numpy(np.concatenate(order).argsort())]

    def _finish(self, rows: Tensor, names: Sequence[int] | range) -> Tensor:
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        check_rows(rows, list(names) if not isinstance(names, range) else names, self.what)
        if self.through is None:
            return rows
        with torch.no_grad():
            return self.through(rows)


def row_ids(data: Any) -> list[str] | None:
    """Give the ids of a store's rows.

    Args:
        data: Anything.

    Returns:
        The ids, or None if the data has none.
    """
    return None if isinstance(data, Tensor | np.ndarray) else getattr(data, "ids", None)


def _take(data: Any, positions: np.ndarray) -> Any:
    return data[torch.from_numpy(positions)].cpu() if isinstance(data, Tensor) else data[positions]
