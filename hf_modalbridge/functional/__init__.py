"""Pure tensor functions: no state, no files."""

from __future__ import annotations

from hf_modalbridge.functional.contrastive import clip_loss
from hf_modalbridge.functional.geometry import centroid_gap, check_rows, normalize_rows, recall_at_k
from hf_modalbridge.functional.moments import Moments
from hf_modalbridge.functional.realign import (
    normalized_affine,
    normalized_affine_sum,
    realign,
    realign_scale,
    unit_affine,
    unit_rows_sum,
)

__all__ = [
    "Moments",
    "centroid_gap",
    "check_rows",
    "clip_loss",
    "normalize_rows",
    "normalized_affine",
    "normalized_affine_sum",
    "realign",
    "realign_scale",
    "recall_at_k",
    "unit_affine",
    "unit_rows_sum",
]
