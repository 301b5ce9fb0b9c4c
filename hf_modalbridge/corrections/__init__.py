"""Corrections of the modality gap: fit on statistics, move embeddings, save themselves."""

from __future__ import annotations

from hf_modalbridge.corrections.aniso_align import AnisoAlign
from hf_modalbridge.corrections.aniso_config import ABLATIONS, AnisoConfig
from hf_modalbridge.corrections.apply import apply_correction
from hf_modalbridge.corrections.auto import AutoCorrection
from hf_modalbridge.corrections.base import Correction
from hf_modalbridge.corrections.block_covariance import BlockCovariance
from hf_modalbridge.corrections.c3 import C3, C3Shift
from hf_modalbridge.corrections.diffusion_link import DiffusionLink
from hf_modalbridge.corrections.mean_shift import MeanShift
from hf_modalbridge.corrections.none import NoCorrection
from hf_modalbridge.corrections.paired import PairedCorrection, paired_covariance
from hf_modalbridge.corrections.procrustes import Procrustes
from hf_modalbridge.corrections.realign import ReAlign
from hf_modalbridge.corrections.role_means import RoleMeans
from hf_modalbridge.corrections.statistics import centred_moments, drift_moments, unit_covariance, unit_moments
from hf_modalbridge.corrections.subspace_cca import SubspaceCCA

__all__ = [
    "ABLATIONS",
    "C3",
    "AnisoAlign",
    "AnisoConfig",
    "AutoCorrection",
    "BlockCovariance",
    "C3Shift",
    "Correction",
    "DiffusionLink",
    "MeanShift",
    "NoCorrection",
    "PairedCorrection",
    "Procrustes",
    "ReAlign",
    "RoleMeans",
    "SubspaceCCA",
    "apply_correction",
    "centred_moments",
    "drift_moments",
    "paired_covariance",
    "unit_covariance",
    "unit_moments",
]
