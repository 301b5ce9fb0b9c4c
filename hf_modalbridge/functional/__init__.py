"""Pure tensor functions: no state, no files."""

from __future__ import annotations

from hf_modalbridge.functional.contrastive import clip_loss
from hf_modalbridge.functional.covariance import CovarianceMoments, symmetric_power
from hf_modalbridge.functional.diffusion import add_noise, reverse, topology_loss
from hf_modalbridge.functional.geometry import centroid_gap, check_rows, normalize_rows, recall_at_k
from hf_modalbridge.functional.moments import Moments
from hf_modalbridge.functional.points import (
    ball_query,
    canonical_order,
    chamfer_distance,
    farthest_point_sample,
    gather_points,
    nearest_neighbors,
    subsample_points,
    unit_sphere,
)
from hf_modalbridge.functional.realign import (
    normalized_affine,
    normalized_affine_sum,
    realign,
    realign_scale,
    unit_affine,
    unit_rows_sum,
)

__all__ = [
    "CovarianceMoments",
    "Moments",
    "add_noise",
    "ball_query",
    "canonical_order",
    "centroid_gap",
    "chamfer_distance",
    "check_rows",
    "clip_loss",
    "farthest_point_sample",
    "gather_points",
    "nearest_neighbors",
    "normalize_rows",
    "normalized_affine",
    "normalized_affine_sum",
    "realign",
    "realign_scale",
    "recall_at_k",
    "reverse",
    "subsample_points",
    "symmetric_power",
    "topology_loss",
    "unit_affine",
    "unit_rows_sum",
    "unit_sphere",
]
