"""The bridge as Hugging Face classes: configuration, model and processor."""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "ModalBridgeConfig": "configuration_modalbridge",
    "ModalityConfig": "configuration_modalbridge",
    "CONNECTORS": "connectors",
    "Connector": "connectors",
    "ModalBridgeModel": "modeling_base",
    "ModalBridgeForConditionalGeneration": "modeling_modalbridge",
    "ModalBridgeProcessor": "processing_modalbridge",
    "PairwiseAligner": "pairwise_aligner",
    "PairwiseConfig": "configuration_pairwise",
}
__all__ = [
    "CONNECTORS",
    "Connector",
    "ModalBridgeConfig",
    "ModalBridgeForConditionalGeneration",
    "ModalBridgeModel",
    "ModalBridgeProcessor",
    "ModalityConfig",
    "PairwiseAligner",
    "PairwiseConfig",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
