"""Corrections of the modality gap: fit on statistics, move embeddings, save themselves."""

from __future__ import annotations

from hf_modalbridge.corrections.apply import apply_correction
from hf_modalbridge.corrections.auto import AutoCorrection
from hf_modalbridge.corrections.base import Correction
from hf_modalbridge.corrections.c3 import C3, C3Shift
from hf_modalbridge.corrections.mean_shift import MeanShift
from hf_modalbridge.corrections.none import NoCorrection
from hf_modalbridge.corrections.realign import ReAlign
from hf_modalbridge.corrections.statistics import drift_moments, unit_moments

__all__ = [
    "C3",
    "AutoCorrection",
    "C3Shift",
    "Correction",
    "MeanShift",
    "NoCorrection",
    "ReAlign",
    "apply_correction",
    "drift_moments",
    "unit_moments",
]
