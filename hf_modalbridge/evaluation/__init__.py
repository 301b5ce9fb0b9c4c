"""Evaluation: the modality gap, likelihood of captions and n-way caption choice."""

from __future__ import annotations

from .caption_nll import caption_nll, evaluate_captions
from .cross_modal import cross_modal_retrieval, recomposition_quality
from .gap_report import GapReport
from .intervals import bootstrap_interval, runs_interval, student_interval
from .label_choice import label_choice
from .n_way_choice import choice_credit, draw_candidates
from .scoring import CaptionScorer

__all__ = [
    "CaptionScorer",
    "GapReport",
    "bootstrap_interval",
    "caption_nll",
    "choice_credit",
    "cross_modal_retrieval",
    "draw_candidates",
    "evaluate_captions",
    "label_choice",
    "recomposition_quality",
    "runs_interval",
    "student_interval",
]
