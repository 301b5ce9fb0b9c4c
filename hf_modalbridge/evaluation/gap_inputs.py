"""What a gap report is asked to compare: corrections and stores by name, and types that are fitted for it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_modalbridge.corrections import AutoCorrection
from hf_modalbridge.evaluation.gap_report import GapReport
from hf_modalbridge.evaluation.gap_rows import RowSubset
from hf_modalbridge.store import EmbeddingStore
from hf_modalbridge.store.manifest import MANIFEST
from hf_modalbridge.store.pairing import match_pairs

__all__ = ["fit_type", "report_on_stores", "split_rows"]


def report_on_stores(
    source: EmbeddingStore,
    target: EmbeddingStore,
    corrected: Sequence[str] = (),
    *,
    pair_column: str | None = None,
    modality: str | None = None,
    **options: Any,
) -> GapReport:
    """Report on two stores and anything that corrects the first.

    A type that has to be fitted is fitted on one half of both stores, and then everything is measured on the other
    half: rows whose pairing values are equal stay in one half, so that no pair is seen by the fit and measured.

    Args:
        source: Store of the source side.
        target: Store of the target modality.
        corrected: Each the directory or repo id of a correction or model, a store of corrected embeddings, or a type
            such as "realign". A directory counts before a type of the same name.
        pair_column: Column of both stores whose equal values pair rows; None: no pairs.
        modality: Of a model with several.
        **options: For `GapReport.compute`.

    Returns:
        The report.

    Raises:
        FileNotFoundError: If a name is no type and nothing of that name is found.
        KeyError: If a store has no such column.
        ValueError: If the stores do not fit each other.
    """
    seed = int(options.get("seed", 0))
    found: dict[str, Any] = {}
    for name in corrected:
        found[_free_name(name, found)] = _open(name, modality)
    types = {label: item for label, item in found.items() if isinstance(item, type)}
    sides: tuple[Any, Any] = (source, target)
    if pair_column is not None:
        match_pairs(source, target, pair_column)  # an early, clear error
    if types:
        column = pair_column or "id"
        values = [
            store.column(column) if column == "id" or column in store.columns else store.ids
            for store in (source, target)
        ]
        fit, held_out = split_rows(*values, seed=seed)
        halves = tuple(RowSubset(store, rows) for store, rows in zip((source, target), fit, strict=True))
        for label, kind in types.items():
            found[label] = fit_type(kind, *halves, pair_column=pair_column, seed=seed)
        sides = tuple(RowSubset(store, rows) for store, rows in zip((source, target), held_out, strict=True))
        found = {
            label: RowSubset(item, held_out[0]) if isinstance(item, EmbeddingStore) else item
            for label, item in found.items()
        }
    pairs = match_pairs(*sides, column=pair_column) if pair_column is not None else None
    report = GapReport.compute(*sides, corrected=found, pairs=pairs, **options)
    if types:
        report.settings["fitted_here"] = sorted(types)
        report.settings["fitting_rows"] = [len(half) for half in halves]
    return report


def fit_type(kind: Any, source: RowSubset, target: RowSubset, *, pair_column: str | None = None, seed: int = 0) -> Any:
    """Fit a type of correction on some rows; unpaired ones do not get to know what belongs together.

    Args:
        kind: Class of the correction.
        source: Rows of the source.
        target: Rows of the target.
        pair_column: Column whose equal values pair rows, for types that are fitted on pairs.
        seed: Of the fit, and of the order of the target's rows.

    Returns:
        The fitted correction.

    Raises:
        ValueError: If a type needs pairs and none are named.
    """
    if getattr(kind, "paired", False):
        if pair_column is None:
            raise ValueError(
                f"the type {kind.correction_type!r} is fitted on pairs. Say which rows belong together with --pairs."
            )
        left, right = match_pairs(source, target, pair_column)  # type: ignore[arg-type]
        return kind.fit(RowSubset(source, left), RowSubset(target, right), seed=seed)
    order = np.random.default_rng(seed).permutation(len(target))
    return kind.fit(source, RowSubset(target, order), seed=seed)


def split_rows(
    source_values: Sequence[Any], target_values: Sequence[Any], seed: int = 0
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Split the rows of two sides into a half to fit on and a half to measure on; equal values stay together.

    Args:
        source_values: One value a row of the source; rows with None are on their own.
        target_values: The same for the target.
        seed: Of the split.

    Returns:
        Positions in source and target to fit on, and those to measure on.

    Raises:
        ValueError: If a part would be empty.
    """
    keys = [
        [("row", side, i) if value is None else ("value", value) for i, value in enumerate(values)]
        for side, values in enumerate((source_values, target_values))
    ]
    first, second = ({key: None for key in side} for side in keys)
    chosen: set[Any] = set()
    groups = ([k for k in first if k in second], [k for k in first if k not in second],
              [k for k in second if k not in first])  # fmt: skip
    for number, group in enumerate(groups):
        random.Random(f"{seed} {number}").shuffle(group)
        chosen.update(group[: len(group) // 2])
    parts = [
        tuple(np.array([i for i, key in enumerate(side) if (key in chosen) == fit], dtype=np.int64) for side in keys)
        for fit in (True, False)
    ]
    if any(not len(rows) for part in parts for rows in part):
        raise ValueError(
            f"{len(source_values)} source and {len(target_values)} target rows are too few to fit on one half and "
            "measure on the other. Fit a correction on other rows first and give its directory."
        )
    return (parts[0][0], parts[0][1]), (parts[1][0], parts[1][1])


def _open(name: str, modality: str | None) -> Any:
    path = Path(name)
    if (path / MANIFEST).is_file():
        return EmbeddingStore.open(path)
    if not path.exists() and name in AutoCorrection.types():
        return AutoCorrection.from_type(name)
    try:
        return AutoCorrection.from_pretrained(name, modality)
    except FileNotFoundError as error:
        types = ", ".join(AutoCorrection.types())
        raise FileNotFoundError(
            f"{name!r} is no correction, no store and no type of correction ({types}): {error}"
        ) from error


def _free_name(name: str, taken: dict[str, Any]) -> str:
    """Name a set by the last part of its path, by all of it where that is taken."""
    short = Path(name).name or name
    for candidate in (short, name, *(f"{name} {i}" for i in range(2, len(taken) + 3))):
        if candidate not in taken and candidate not in ("source", "target", "transformed target"):
            return candidate
    raise ValueError(f"{name!r} was given too often.")
