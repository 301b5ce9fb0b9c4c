"""Load a correction of any type, from its own directory or out of a whole model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hf_modalbridge.corrections.aniso_align import AnisoAlign
from hf_modalbridge.corrections.base import Correction
from hf_modalbridge.corrections.block_covariance import BlockCovariance
from hf_modalbridge.corrections.c3 import C3, C3Shift
from hf_modalbridge.corrections.diffusion_link import DiffusionLink
from hf_modalbridge.corrections.mean_shift import MeanShift
from hf_modalbridge.corrections.none import NoCorrection
from hf_modalbridge.corrections.procrustes import Procrustes
from hf_modalbridge.corrections.realign import ReAlign
from hf_modalbridge.corrections.role_means import RoleMeans
from hf_modalbridge.corrections.saving import load_config, load_tensors
from hf_modalbridge.corrections.subspace_cca import SubspaceCCA

__all__ = ["AutoCorrection"]

_TYPES: dict[str, type[Correction]] = {
    kind.correction_type: kind
    for kind in (
        NoCorrection,
        MeanShift,
        C3,
        C3Shift,
        RoleMeans,
        BlockCovariance,
        ReAlign,
        AnisoAlign,
        Procrustes,
        SubspaceCCA,
        DiffusionLink,
    )
}


class AutoCorrection:
    """Find the class of a correction by the `correction_type` in its config."""

    def __init__(self) -> None:
        raise TypeError("AutoCorrection is not built; use AutoCorrection.from_pretrained or from_config.")

    @staticmethod
    def types() -> dict[str, type[Correction]]:
        """Give all types of corrections.

        Returns:
            Classes by `correction_type`.
        """
        return dict(_TYPES)

    @staticmethod
    def from_type(correction_type: str) -> type[Correction]:
        """Find a class.

        Args:
            correction_type: Such as "realign".

        Returns:
            The class.

        Raises:
            KeyError: If there is none of this name.
        """
        if correction_type not in _TYPES:
            raise KeyError(f"there is no correction type {correction_type!r}; there are {', '.join(_TYPES)}.")
        return _TYPES[correction_type]

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Correction:
        """Build an unfitted correction, for a checkpoint to fill.

        Args:
            config: From `Correction.to_config`.

        Returns:
            The correction.

        Raises:
            KeyError: If the type is missing or unknown.
            ValueError: If a key is unknown.
        """
        if "correction_type" not in config:
            raise KeyError(f"the config has no 'correction_type'; it has {', '.join(sorted(config)) or 'nothing'}.")
        return AutoCorrection.from_type(config["correction_type"]).from_config(config)

    @staticmethod
    def from_pretrained(
        path_or_repo: str | os.PathLike[str], modality: str | None = None, revision: str | None = None
    ) -> Correction:
        """Load a correction from its own directory or repo, or out of that of a whole model.

        Only `config.json` and `correction.safetensors` are read or downloaded.

        Args:
            path_or_repo: Directory, or repo id on the Hub.
            modality: Of a whole model; may be left out if only one of its modalities has a correction.
            revision: Branch, tag or commit on the Hub.

        Returns:
            The correction, in eval mode.

        Raises:
            FileNotFoundError: If there is no such directory, repo or file.
            KeyError: If the model has no correction for the modality, or several and none was named.
            ValueError: If config and tensors do not fit each other.
        """
        config = load_config(path_or_repo, revision)
        if "correction_type" in config:
            correction = AutoCorrection.from_config(config)
            load_tensors(correction, path_or_repo, revision)
            return correction
        found = {
            name: entry["correction_config"]
            for name, entry in (config.get("modalities") or {}).items()
            if entry.get("correction_config")
        }
        if modality is None and len(found) == 1:
            modality = next(iter(found))
        if modality not in found:
            wanted = f"for the modality {modality!r}" if modality else "named, and it has not exactly one"
            raise KeyError(
                f"{str(path_or_repo)!r} has no correction {wanted}; its modalities with a correction are: "
                f"{', '.join(found) or 'none'}. Pass modality=."
            )
        correction = AutoCorrection.from_config(found[modality])
        names = (f"model.corrections.{modality}.", f"corrections.{modality}.")
        load_tensors(correction, path_or_repo, revision, names)
        return correction
