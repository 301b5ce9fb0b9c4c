"""PEFT adapters of a bridge: low-rank ones in the language model, with the connectors travelling along."""

from __future__ import annotations

from typing import Any

__all__ = ["bridge_lora_config"]

_LANGUAGE_MODEL_LAYERS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|c_attn|query_key_value)"


def bridge_lora_config(model: Any, **options: Any) -> Any:
    """Make a LoRA configuration for a whole bridge.

    Adapters go into the attention of the language model. The connectors are trained whole and saved in the adapter's
    directory: an adapter without the connector that it was trained with is worth nothing.

    Args:
        model: A bridge, for `peft.get_peft_model(model, bridge_lora_config(model))`.
        **options: For `peft.LoraConfig`, such as `r`, `lora_alpha`, `target_modules`.

    Returns:
        The `peft.LoraConfig`.

    Raises:
        ImportError: If peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError("adapters need peft: pip install 'hf-modalbridge[peft]'.") from error
    connectors = [f"connectors.{name}" for name in model.config.modalities]
    options.setdefault("target_modules", _LANGUAGE_MODEL_LAYERS)
    options["modules_to_save"] = sorted({*connectors, *(options.get("modules_to_save") or [])})
    return LoraConfig(**options)
