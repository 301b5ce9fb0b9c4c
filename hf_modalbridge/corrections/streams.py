"""Sums over embeddings of any kind, in float64: arrays, tensors, stores, or several of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from hf_modalbridge.corrections.parallel import cache_rows, map_in_order
from hf_modalbridge.functional.geometry import check_rows

__all__ = ["BATCH_ROWS", "EmbeddingSource", "Embeddings", "RowStream"]

BATCH_ROWS = 2048


@runtime_checkable
class EmbeddingSource(Protocol):
    """What a fit needs of a store; `EmbeddingStore` has it."""

    dim: int
    encoder: Mapping[str, Any] | None

    def __len__(self) -> int: ...

    def iter_batches(self, batch_size: int, *, dtype: Any = ..., reuse_buffer: bool = ...) -> Iterator[tuple[Any, Any]]:
        """Yield positions and rows."""
        ...


Embeddings: TypeAlias = np.ndarray | Tensor | EmbeddingSource


class RowStream:
    """One side of a fit: rows that are gone through any number of times, one block in memory.

    Args:
        data: Array or tensor `(n, dim)`, a store, or a list of parts of these kinds and one width.
        what: "source" or "target", for messages and the progress bar.
        batch_size: Rows read at once.
        progress: Whether to show a progress bar.

    Raises:
        TypeError: If the data is of another kind.
        ValueError: If the shape is wrong, a part is empty, or parts differ in width or encoder.
    """

    def __init__(
        self,
        data: Embeddings | Sequence[Embeddings],
        what: str = "embeddings",
        batch_size: int = BATCH_ROWS,
        progress: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.what, self.batch_size, self.progress = what, batch_size, progress
        self.parts = [_as_part(part, what) for part in (data if isinstance(data, list | tuple) else [data])]
        widths = {part.dim if isinstance(part, EmbeddingSource) else part.shape[1] for part in self.parts}
        if len(widths) != 1:
            raise ValueError(
                f"the {what} needs parts of one width, got {sorted(widths)}. Fit on one encoder's embeddings."
            )
        self.dim = int(widths.pop())
        self.rows = sum(len(part) for part in self.parts)
        if not self.rows:
            raise ValueError(f"the {what} is empty: 0 rows. A fit needs at least one row on each side.")

    @property
    def encoder(self) -> Mapping[str, Any] | None:
        """Fingerprint of the encoder of the first store among the parts, or None."""
        found = [part.encoder for part in self.parts if isinstance(part, EmbeddingSource) and part.encoder]
        return found[0] if found else None

    def sum(self, function: Callable[[Tensor], Tensor], doing: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """Go through the rows once and add up a function of them.

        Args:
            function: From float64 rows `(n, dim)` to a sum over them; NaN where a row has no direction.
            doing: Label of the progress bar.
            shape: Of the sum; `(dim,)` by default.

        Returns:
            The float64 sum over all rows.

        Raises:
            ValueError: If a row is not finite or is zero.
        """
        total = torch.zeros(shape or (self.dim,), dtype=torch.float64)
        # a sum that is larger than the rows of a block would be all that is read and written
        block = max(cache_rows(self.dim, 12), total.numel() // self.dim)
        start = 0

        def work(batch: Tensor) -> tuple[Tensor, Tensor]:
            partial, wide = torch.zeros_like(total), torch.empty(block, self.dim, dtype=torch.float64)
            middle = torch.empty(block, self.dim)
            for rows in batch.split(block):
                if rows.dtype in (torch.float16, torch.bfloat16):  # their direct conversion is not vectorised
                    rows = middle[: len(rows)].copy_(rows)
                partial += function(wide[: len(rows)].copy_(rows))
            return batch, partial

        with tqdm(total=self.rows, desc=f"{self.what} {doing}", unit="row", disable=not self.progress) as bar:
            for batch, partial in map_in_order(work, self.batches()):
                if not bool(partial.isfinite().all()):
                    check_rows(batch, range(start, start + len(batch)), self.what)
                    raise ValueError(f"the {self.what} has rows too large to sum, near row {start}. Normalise them.")
                total += partial
                start += len(batch)
                bar.update(len(batch))
        return total

    def batches(self) -> Iterator[Tensor]:
        """Go through the rows once, unchecked, in their own dtype.

        Yields:
            Blocks `(n, dim)` of at most `batch_size` rows, on the CPU.
        """
        for part in self.parts:
            if isinstance(part, Tensor):
                yield from (rows.cpu() for rows in part.split(self.batch_size))
            else:
                yield from (torch.from_numpy(rows) for _, rows in part.iter_batches(self.batch_size, dtype=None))


def _as_part(part: Any, what: str) -> Tensor | EmbeddingSource:
    """Bring one part into a form that can be read in blocks."""
    if isinstance(part, np.ndarray):
        part = torch.from_numpy(part) if part.flags.writeable else torch.from_numpy(part.copy())
    if isinstance(part, Tensor):
        if part.ndim != 2 or not part.is_floating_point():
            raise ValueError(
                f"the {what} must be floating point rows (n, dim), got shape {tuple(part.shape)} of {part.dtype}."
            )
        return part.detach()
    if isinstance(part, EmbeddingSource):
        return part
    raise TypeError(
        f"the {what} is a {type(part).__name__}; expected a numpy array, a tensor or an EmbeddingStore (open one with "
        "EmbeddingStore.open), or a list of those."
    )
