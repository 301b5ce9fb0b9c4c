"""Registration with transformers' Auto classes, put off until transformers' own tables are loaded.

Our modules do not import those tables at their top (`from transformers import AutoModel`), because loading a
table imports our module for it, which would then be half imported. Inside functions they may.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

__all__ = ["register", "register_configs", "register_models", "register_processors"]

_AUTO = "transformers.models.auto"


def register_configs() -> None:
    """Register the configuration with `AutoConfig`, which its file does at its end."""
    name = f"{__package__}.models.configuration_modalbridge"
    if name not in sys.modules:  # else it is loaded, or is what loads the table
        importlib.import_module(name)


def register_models() -> None:
    """Register the model; `AutoModel` too gives the one that generates: without a head a bridge is mute."""
    from transformers.models.auto import modeling_auto as auto

    from .models.configuration_modalbridge import ModalBridgeConfig
    from .models.modeling_modalbridge import ModalBridgeForConditionalGeneration

    for auto_class in (
        auto.AutoModel,
        auto.AutoModelForCausalLM,
        auto.AutoModelForImageTextToText,
        auto.AutoModelForMultimodalLM,
    ):
        auto_class.register(ModalBridgeConfig, ModalBridgeForConditionalGeneration, exist_ok=True)


def register_processors() -> None:
    """Register the processor with `AutoProcessor`."""
    from transformers.models.auto.processing_auto import AutoProcessor

    from .models.configuration_modalbridge import ModalBridgeConfig
    from .models.processing_modalbridge import ModalBridgeProcessor

    AutoProcessor.register(ModalBridgeConfig, ModalBridgeProcessor, exist_ok=True)


_STEPS = {
    f"{_AUTO}.configuration_auto": register_configs,
    f"{_AUTO}.modeling_auto": register_models,
    f"{_AUTO}.processing_auto": register_processors,
}


class _RegisterAfterImport(importlib.abc.MetaPathFinder):
    """Registers each part right after transformers has executed the module with that part's table.

    So `import hf_modalbridge` stays free of torch (a command line's help, an embedding store), and `from
    transformers import AutoModel` after it still knows the bridge.
    """

    def __init__(self) -> None:
        self.searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find the module as usual, and append our registration to its execution."""
        if fullname not in _STEPS or self.searching:
            return None
        self.searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.searching = False
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _STEPS[fullname]()

        loader: Any = spec.loader
        loader.exec_module = exec_module
        return spec


def register() -> None:
    """Register all parts: now where transformers' tables are loaded, else when they are."""
    loaded = [name for name in _STEPS if name in sys.modules]
    # first, because the steps themselves may load the remaining tables
    if len(loaded) < len(_STEPS) and not any(isinstance(finder, _RegisterAfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegisterAfterImport())
    for name in loaded:
        _STEPS[name]()
