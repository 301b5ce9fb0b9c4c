"""The Space: a web page for what this package does. Needs the extra `space`; gradio is loaded when it starts."""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "Limits": "uploads",
    "LoadedModel": "world",
    "Refused": "uploads",
    "World": "world",
    "build": "app",
    "find_models": "world",
    "launch": "app",
    "read_embeddings": "tables",
    "read_item": "items",
    "read_table": "tables",
    "serve": "app",
}
__all__ = [
    "Limits",
    "LoadedModel",
    "Refused",
    "World",
    "build",
    "find_models",
    "launch",
    "read_embeddings",
    "read_item",
    "read_table",
    "serve",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
