"""Which parts of a bridge 4-bit and 8-bit loading leaves alone."""

from __future__ import annotations

import copy
from typing import Any

import torch

__all__ = ["leave_bridge_whole"]


def leave_bridge_whole(quantization: Any, config: Any) -> Any:
    """Tell bitsandbytes to quantise the language model only, unless the user says which modules to leave alone.

    Connectors are small, and narrower ones than its blocks fail. Encoders have to give the embeddings that the
    correction was fitted on.

    Args:
        quantization: `BitsAndBytesConfig`, another quantisation's configuration, or None.
        config: The bridge's configuration.

    Returns:
        The configuration to load with.
    """
    if getattr(quantization, "llm_int8_skip_modules", ()) is not None:  # not of bitsandbytes, or the user's choice
        return quantization
    from transformers import AutoModelForCausalLM
    from transformers.quantizers.base import get_keys_to_not_convert

    with torch.device("meta"):
        language_model = AutoModelForCausalLM.from_config(config.text_config)
    quantization = copy.deepcopy(quantization)
    head = [f"model.language_model.{name}" for name in get_keys_to_not_convert(language_model)]
    quantization.llm_int8_skip_modules = ["model.connectors", "model.encoders", "model.corrections", *head]
    return quantization
