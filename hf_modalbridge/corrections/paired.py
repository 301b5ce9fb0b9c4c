"""Corrections that are fitted on pairs: rows of two sides that belong together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from hf_modalbridge.corrections.base import Correction
from hf_modalbridge.corrections.statistics import covariance_of
from hf_modalbridge.corrections.streams import Embeddings, RowStream
from hf_modalbridge.functional.covariance import CovarianceMoments
from hf_modalbridge.functional.geometry import check_rows, normalize_rows

__all__ = ["PairedCorrection", "joint_rows", "paired_covariance"]


class PairedCorrection(Correction):
    """A correction whose `fit` takes rows that correspond: row i of the source belongs to row i of the target.

    Two stores are joined on their ids, or on the column that `pairs` names; rows without a partner are left
    out, and `source_rows` and `target_rows` both count the pairs.
    """

    paired: ClassVar[bool] = True
    min_pairs: ClassVar[int] = 2

    def _check_pairs(self, pairs: int) -> None:
        """Refuse too few pairs, saying why."""
        least = self._least_pairs()
        if pairs < least:
            raise ValueError(
                f"{type(self).__name__} needs at least {least} pairs, got {pairs}: {self._why_least()} Give more "
                "pairs, or fit an unpaired correction such as ReAlign."
            )

    def _least_pairs(self) -> int:
        return self.min_pairs

    def _why_least(self) -> str:
        return "a single pair has no direction left once the means are taken out."


class JointRows:
    """Source and target rows side by side, `(n, 2 dim)`: an `EmbeddingSource` made of two streams.

    Args:
        source: Stream of the source.
        target: Stream of the target, with as many rows.
    """

    encoder: Mapping[str, Any] | None = None

    def __init__(self, source: RowStream, target: RowStream) -> None:
        self.source, self.target = source, target
        self.dim = 2 * source.dim

    def __len__(self) -> int:
        return self.source.rows

    def iter_batches(self, batch_size: int, *, dtype: Any = None, **_: Any) -> Iterator[tuple[Any, Any]]:
        """Go through the pairs once; a bad row is reported with its side.

        Args:
            batch_size: Ignored: blocks are as large as both streams allow.
            dtype: Ignored: rows keep the wider dtype of the two sides.

        Yields:
            Positions `(n,)` and rows `(n, 2 dim)`.
        """
        start, blocks = 0, {"source": self.source.batches(), "target": self.target.batches()}
        rest = {side: torch.empty(0, 0) for side in blocks}
        while start < len(self):
            for side, iterator in blocks.items():
                if not len(rest[side]):
                    rest[side] = next(iterator)
                    check_rows(rest[side], range(start, start + len(rest[side])), side)
            count = min(len(rows) for rows in rest.values())
            left, right = (rows[:count] for rows in rest.values())
            width = torch.promote_types(left.dtype, torch.promote_types(right.dtype, torch.float32))
            yield np.arange(start, start + count), torch.cat([left.to(width), right.to(width)], dim=1).numpy()
            rest = {side: rows[count:] for side, rows in rest.items()}
            start += count


def paired_covariance(
    source: RowStream | Embeddings | list[Embeddings], target: RowStream | Embeddings | list[Embeddings]
) -> CovarianceMoments:
    """Compute mean and covariance of the rows [N(y_i), N(x_i)] in one pass: all second moments of the pairs.

    Args:
        source: Rows y `(n, dim)`: array, tensor, store or a list of such parts.
        target: Rows x `(n, dim)`, row i belonging to row i of the source.

    Returns:
        Moments of width `2 dim`, source first. Those of disjoint sets of pairs merge exactly.

    Raises:
        ValueError: If the sides differ in rows or width, or a row is not finite or zero.
    """
    sides = [
        data if isinstance(data, RowStream) else RowStream(data, what)
        for data, what in ((source, "source"), (target, "target"))
    ]
    check_alike(*sides)
    stream = RowStream(JointRows(*sides), "pairs", progress=sides[0].progress)
    dim = sides[0].dim
    return covariance_of(
        stream, lambda rows: torch.cat([normalize_rows(rows[:, :dim]), normalize_rows(rows[:, dim:])], 1)
    )


def joint_rows(source: RowStream, target: RowStream, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Read all pairs into memory as unit rows.

    Args:
        source: Stream of the source.
        target: Stream of the target.
        dtype: Of the result.

    Returns:
        Source and target `(n, dim)`.

    Raises:
        ValueError: If the sides differ in rows or width, or a row is not finite or zero.
    """
    check_alike(source, target)
    sides = []
    for stream in (source, target):
        rows = torch.cat([block.double() for block in stream.batches()])
        check_rows(rows, what=stream.what)
        sides.append(normalize_rows(rows).to(dtype))
    return sides[0], sides[1]


def check_alike(source: RowStream, target: RowStream) -> None:
    """Refuse sides that cannot be pairs.

    Args:
        source: Stream of the source.
        target: Stream of the target.

    Raises:
        ValueError: If they differ in rows or width.
    """
    if source.dim != target.dim:
        raise ValueError(f"source and target differ in width: {source.dim} and {target.dim}. Take both from one space.")
    if source.rows != target.rows:
        raise ValueError(
            f"pairs were asked for, but the source has {source.rows} rows and the target {target.rows}: row i of one "
            "belongs to row i of the other. Bring them into the same order and number, or give two stores, which are "
            "joined on their ids (`pairs=` names another column)."
        )
