"""Building a bridge from a language model, a tokenizer and the parts of each modality."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from .base_loading import describe_source
from .configuration_modalbridge import ModalBridgeConfig, ModalityConfig
from .vocabulary import add_placeholder, fit_vocabulary

__all__ = ["build"]

_PARTS = ("encoder", "encoder_processor", "correction")


def build(
    cls: Any,
    *,
    language_model: Any,
    tokenizer: Any,
    modalities: Mapping[str, Mapping[str, Any]],
    language_model_source: Mapping[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    seed: int = 0,
) -> tuple[Any, Any]:
    """Build a model and its processor; language model and encoders become part of it, they are not copied.

    Args:
        cls: `ModalBridgeForConditionalGeneration`.
        language_model: A causal language model, or its id or directory. Its vocabulary grows if a placeholder is new.
        tokenizer: Its tokenizer, or id or directory. Placeholders are added to it.
        modalities: `{name: parts}`. Parts are `encoder` (a model with `get_<name>_features`, or None),
            `encoder_processor`, `correction` (a fitted `Correction` or None) and the fields of
            `ModalityConfig`. `embedding_dim` is taken from the correction or encoder if it is not given,
            `placeholder_token` is `<|name|>` if not given.
        language_model_source: `id` and `revision` for the record and for `bridge_only`; by default what it
            was loaded by.
        metadata: Kept in the config.
        seed: Seed of the new connectors' weights.

    Returns:
        `(model, processor)`, the model in evaluation mode.

    Raises:
        ValueError: If a key is unknown or missing, widths do not agree, or a correction is from another encoder.
    """
    from .processing_modalbridge import ModalBridgeProcessor

    if isinstance(language_model, str):
        language_model_source = language_model_source or {"id": language_model}
        revision = language_model_source.get("revision") or "main"
        language_model = AutoModelForCausalLM.from_pretrained(language_model, revision=revision)
    if isinstance(tokenizer, str):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    source = describe_source(language_model, language_model_source)  # before the vocabulary grows
    configs = {name: _modality_config(name, parts, tokenizer) for name, parts in modalities.items()}
    fit_vocabulary(language_model, max([len(tokenizer), *(c.placeholder_token_id + 1 for c in configs.values())]))
    attention = language_model.config._attn_implementation  # which a new outer config would reset in its parts
    config = ModalBridgeConfig(
        text_config=language_model.config,
        modalities=configs,
        language_model_source=source,
        metadata=metadata,
        dtype=language_model.dtype,
        attn_implementation=attention,
    )
    encoders = {name: parts["encoder"] for name, parts in modalities.items() if parts.get("encoder") is not None}
    model = cls(config, language_model=language_model, encoders=encoders)
    table = language_model.get_input_embeddings().weight
    for offset, (name, parts) in enumerate(modalities.items()):
        model.model.connectors[name].init_from_embeddings(table, seed + offset)
        if parts.get("correction") is not None:
            model.model.corrections[name] = parts["correction"]
    model.model.connectors.to(table.device, table.dtype)
    model.model.corrections.to(table.device)
    model.model.encoders.to(table.device)
    model.generation_config = _generation_config(language_model, tokenizer, config)
    processors = {n: p["encoder_processor"] for n, p in modalities.items() if p.get("encoder_processor") is not None}
    return model.eval(), ModalBridgeProcessor(tokenizer, modalities_of(config), encoder_processors=processors)


def modalities_of(config: ModalBridgeConfig) -> dict[str, dict[str, Any]]:
    """Pick out what the processor has to know of each modality."""
    return {
        name: {
            "placeholder_token": modality.placeholder_token,
            "placeholder_token_id": modality.placeholder_token_id,
            "tokens_per_item": modality.tokens_per_item,
            "embedding_dim": modality.embedding_dim,
            **({} if modality.input_tokens is None else {"input_tokens": modality.input_tokens}),
        }
        for name, modality in config.modalities.items()
    }


def _modality_config(name: str, parts: Mapping[str, Any], tokenizer: Any) -> ModalityConfig:
    """Complete the fields of one modality from its parts, and check that the parts fit together."""
    fields = {key: value for key, value in parts.items() if key not in _PARTS}
    known = {f.name for f in dataclasses.fields(ModalityConfig)}
    encoder, correction = parts.get("encoder"), parts.get("correction")
    if fields.keys() <= known:  # an unknown key is named by ModalityConfig.from_dict, before the tokenizer is changed
        fields.setdefault("placeholder_token", f"<|{name}|>")
        if encoder is not None:
            fields.setdefault("encoder_config", encoder.config.to_dict())
            fields["encoder_source"] = describe_source(encoder, fields.get("encoder_source"))
            fields.setdefault("embedding_dim", _encoder_dim(encoder, fields.get("input_tokens")))
        if correction is not None:
            if not correction.is_fitted:
                raise ValueError(f"the correction of modality {name!r} has no statistics yet; fit it first.")
            fields["correction_config"] = correction.to_config()
            fields.setdefault("embedding_dim", correction.dim)
        fields["placeholder_token_id"] = add_placeholder(tokenizer, fields["placeholder_token"])
    config = ModalityConfig.from_dict(fields, name)
    for what, dim in (
        ("correction", getattr(correction, "dim", None)),
        ("encoder", _encoder_dim(encoder, config.input_tokens)),
    ):
        if dim is not None and dim != config.embedding_dim:
            raise ValueError(
                f"modality {name!r} has embedding_dim {config.embedding_dim}, but its {what} is for width {dim}. Use "
                "parts that belong to the same encoder."
            )
    if encoder is not None and correction is not None and parts.get("encoder_processor") is not None:
        _check_encoder(name, encoder, parts["encoder_processor"], correction, config)
    return config


def _encoder_dim(encoder: Any, input_tokens: int | None = None) -> int | None:
    """Width of what the bridge reads of an encoder: its embedding, or one of its tokens."""
    if encoder is None:
        return None
    from hf_modalbridge.encoders import encoder_dim

    if input_tokens is not None and input_tokens > 1:
        return getattr(encoder.config, "hidden_size", None)
    return encoder_dim(encoder.config)


def _check_encoder(name: str, encoder: Any, processor: Any, correction: Any, config: ModalityConfig) -> None:
    """Let the correction refuse an encoder that it was not fitted on."""
    if getattr(correction, "target_encoder", None) is None:
        return
    from hf_modalbridge.encoders import encoder_fingerprint

    source = config.encoder_source or {}
    fingerprint = encoder_fingerprint(encoder, processor, name, source.get("id"), source.get("revision"))
    correction.check_encoder(fingerprint, "target")


def _generation_config(language_model: Any, tokenizer: Any, config: ModalBridgeConfig) -> Any:
    """Take the language model's own generation settings and forbid the placeholders."""
    generation = copy.deepcopy(language_model.generation_config)
    generation.suppress_tokens = sorted({*(generation.suppress_tokens or []), *config.placeholder_token_ids}) or None
    if generation.eos_token_id is None:
        generation.eos_token_id = tokenizer.eos_token_id
    if generation.pad_token_id is None:
        pad = tokenizer.pad_token_id
        generation.pad_token_id = pad if pad is not None else tokenizer.eos_token_id
    return generation
