"""Low-rank adapters inside the bridge's language model."""

from __future__ import annotations

from typing import Any

from torch import nn

from .config import LoraOptions

__all__ = ["add_lora", "lora_modules", "merge_lora"]


def add_lora(language_model: nn.Module, options: LoraOptions) -> Any:
    """Put adapters into a language model, in place.

    Args:
        language_model: A causal language model.
        options: Rank, scale, dropout and where.

    Returns:
        The peft model around it, which `merge_lora` takes.

    Raises:
        ImportError: If peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError(
            "LoRA needs peft: pip install 'hf-modalbridge[peft]', or set stage2.language_model."
        ) from error
    config = LoraConfig(
        r=options.r,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=options.target_modules,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(language_model, config)


def lora_modules(peft_model: Any) -> list[nn.Module]:
    """The adapters' own modules, and nothing of the layers that they adapt."""
    from peft.tuners.lora import LoraLayer

    found: list[nn.Module] = []
    for layer in peft_model.modules():
        if isinstance(layer, LoraLayer):
            found += [part for kind in (layer.lora_A, layer.lora_B) for part in kind.values()]
    return found


def merge_lora(peft_model: Any) -> nn.Module:
    """Add the adapters to the weights and return the plain language model.

    Raises:
        ValueError: If merging gives non-finite weights.
    """
    return peft_model.merge_and_unload(safe_merge=True)
