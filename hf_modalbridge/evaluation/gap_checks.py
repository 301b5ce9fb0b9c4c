"""Checks of what a gap report is given, and the matching of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_modalbridge.corrections import Correction
from hf_modalbridge.evaluation.gap_rows import Rows, row_ids

__all__ = ["check_inputs", "match_rows"]


def check_inputs(source: Rows, target: Rows, given: Mapping[str, Any]) -> None:
    """Refuse what cannot be compared.

    Args:
        source: Rows of the source.
        target: Rows of the target.
        given: Corrections or corrected rows by name.

    Raises:
        ValueError: If widths, rows, ids or encoders do not fit, or a name is the report's own.
    """
    dims = {side.what: side.dim for side in (source, target)}
    reserved = sorted(set(given) & {"source", "target", "transformed target"})
    if reserved:
        raise ValueError(
            f"{', '.join(reserved)} cannot be the name of a correction: the report uses it. Choose another."
        )
    for name, item in given.items():
        if isinstance(item, Correction):
            dims[name] = item.dim
            if not item.is_fitted:
                raise ValueError(
                    f"the correction {name!r} was never fitted. Fit it on rows that are not measured here."
                )
            item.check_encoder(source.encoder, "source")
            item.check_encoder(target.encoder, "target")
            continue
        rows = Rows(item, name)
        dims[name] = rows.dim
        if len(rows) != len(source):
            raise ValueError(
                f"{name!r} has {len(rows)} corrected rows and the source {len(source)}: give one for each row of the "
                "source, in its order, such as `modalbridge apply` writes."
            )
        if rows.ids is not None and source.ids is not None and rows.ids != source.ids:
            raise ValueError(f"the ids of {name!r} are not those of the source, row by row. Correct this very source.")
    if len(set(dims.values())) > 1:
        raise ValueError(f"the sides differ in width: {dims}. Compare embeddings of one contrastive space.")


def match_rows(pairs: Any, source: Any, target: Any, most: int, seed: int) -> tuple[Tensor, Tensor] | None:
    """Bring pairs into the form of two position tensors.

    Args:
        pairs: As for `GapReport.compute`.
        source: The source's data.
        target: The target's data.
        most: More pairs are sampled.
        seed: Of the sample.

    Returns:
        Positions in source and target `(n,)`, or None for no pairs.

    Raises:
        ValueError: If positions do not match or are out of range, or no ids are equal.
    """
    if pairs is None or pairs is False:
        return None
    left: Any
    right: Any
    if pairs is True:
        if row_ids(source) is not None and row_ids(target) is not None:
            first = {name: i for i, name in reversed(list(enumerate(target.ids)))}
            both = [(i, first[name]) for i, name in enumerate(source.ids) if name in first]
            left, right = np.array(both, dtype=np.int64).reshape(-1, 2).T
        elif len(source) != len(target):
            raise ValueError(
                f"pairs=True pairs rows at equal positions, and there are {len(source)} source and {len(target)} "
                "target rows. Pass their positions instead."
            )
        else:
            left = right = np.arange(len(source))
    else:
        left, right = pairs if isinstance(pairs, tuple | list) and len(pairs) == 2 else np.asarray(pairs).T
    left, right = np.asarray(left, dtype=np.int64), np.asarray(right, dtype=np.int64)
    if len(left) != len(right) or not len(left):
        raise ValueError(
            f"pairs need as many source as target positions, at least one; got {len(left)} and {len(right)}."
        )
    for side, where, rows in (("source", left, len(source)), ("target", right, len(target))):
        if where.min() < 0 or where.max() >= rows:
            raise ValueError(f"pairs name rows {where.min()} to {where.max()} of the {side}, which has {rows}.")
    if len(left) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(len(left), most, replace=False))
        left, right = left[chosen], right[chosen]
    return torch.from_numpy(left), torch.from_numpy(right)
