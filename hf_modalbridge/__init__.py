"""Let a language model read a modality for which complete paired data does not exist.

Importing this package registers `modalbridge` models with transformers' Auto classes. It is cheap: neither
torch nor transformers is loaded until something here needs them.
"""

from __future__ import annotations

import importlib
from typing import Any

from ._registration import register

__version__ = "0.1.0"

# public name -> module that defines it; each room is loaded when one of its names is first asked for
_NAMES = {
    "AnisoAlign": "corrections",
    "AutoCorrection": "corrections",
    "BlockCovariance": "corrections",
    "C3": "corrections",
    "C3Shift": "corrections",
    "Correction": "corrections",
    "DiffusionLink": "corrections",
    "EmbeddingStore": "store",
    "EmbeddingStoreWriter": "store",
    "GapReport": "evaluation",
    "MeanShift": "corrections",
    "ModalBridgeConfig": "models",
    "ModalBridgeForConditionalGeneration": "models",
    "ModalBridgeModel": "models",
    "ModalBridgeProcessor": "models",
    "ModalityConfig": "models",
    "NoCorrection": "corrections",
    "PairwiseAligner": "models",
    "PairwiseConfig": "models",
    "Procrustes": "corrections",
    "ReAlign": "corrections",
    "RoleMeans": "corrections",
    "SubspaceCCA": "corrections",
    "list_encoders": "encoders",
    "register_encoder": "encoders",
}
__all__ = ["__version__", *sorted(_NAMES)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})


register()
