"""The Hugging Face Hub: push with verification, checked downloads, model cards, the remote-code bundle."""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "RunFacts": "cards",
    "PushReport": "pushing",
    "download": "downloads",
    "model_card": "cards",
    "push": "pushing",
    "validate_card": "cards",
    "write_bundle": "bundle",
}
__all__ = sorted(_NAMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
