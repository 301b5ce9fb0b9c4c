"""Training: one loop, the two stages of the unpaired route, exact resume.

Configurations are read without torch or accelerate; the rest is loaded when one of its names is first asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

from .config import (
    BridgeOptions,
    LanguageModelOptions,
    LoopConfig,
    LoraOptions,
    RevisionConfig,
    Stage1Config,
    Stage2Config,
    WarmStartOptions,
)
from .config_io import build_config, load_config

_NAMES = {
    "StageResult": "unpaired",
    "TrainResult": "loop",
    "assert_trainable": "freezing",
    "held_out_loss": "held_out",
    "run_pairwise": "pairwise",
    "run_revision": "unpaired",
    "run_stage1": "unpaired",
    "run_stage2": "unpaired",
    "train": "loop",
    "train_only": "freezing",
    "trainable_parameters": "freezing",
    "warm_start_connector": "warm_start",
}
__all__ = [  # noqa: PLE0604
    "BridgeOptions",
    "LanguageModelOptions",
    "LoopConfig",
    "LoraOptions",
    "RevisionConfig",
    "Stage1Config",
    "Stage2Config",
    "WarmStartOptions",
    "build_config",
    "load_config",
    *_NAMES,
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
