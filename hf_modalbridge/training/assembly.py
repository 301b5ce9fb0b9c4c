"""Putting a bridge together for a stage, frozen but for what the stage trains."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .checkpoint import load_trained
from .config import LanguageModelOptions, RevisionConfig
from .freezing import train_only, trainable_parameters
from .lora import add_lora, lora_modules, merge_lora

__all__ = [
    "Bridge",
    "assemble_stage1",
    "assemble_stage2",
    "load_language_model",
    "model_identity",
    "store_identity",
]

_NOT_IDENTITY = frozenset(
    "transformers_version architectures language_model_source encoder_source metadata name_or_path bridge_only "
    "encoder_config use_cache".split()
)


@dataclass
class Bridge:
    """A bridge that is ready to train.

    Args:
        model: Frozen except for `trained`.
        processor: Its processor.
        trained: Modules that train.
        dtype: Of the finished model; what trains is float32 meanwhile.
        peft_model: Around the language model, with LoRA.
    """

    model: Any
    processor: Any
    trained: list[nn.Module]
    dtype: torch.dtype
    peft_model: Any = field(default=None, repr=False)

    def finish(self, trained_file: str | Path) -> None:
        """Load what was trained, merge adapters, and bring all to one dtype.

        Args:
            trained_file: `trained.safetensors` of the last checkpoint.
        """
        load_trained(trained_file, trainable_parameters(self.model))
        if self.peft_model is not None:
            merge_lora(self.peft_model)
        self.model.requires_grad_(False)
        self.model.to(self.dtype).eval()


def load_language_model(options: LanguageModelOptions) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer.

    Args:
        options: Which, and in what dtype.

    Returns:
        Model and tokenizer.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    common = {"revision": options.revision, "trust_remote_code": options.trust_remote_code}
    extra = {} if options.attn_implementation is None else {"attn_implementation": options.attn_implementation}
    model = AutoModelForCausalLM.from_pretrained(options.id, dtype=options.dtype, **common, **extra)
    return model, AutoTokenizer.from_pretrained(options.id, **common)


def assemble_stage1(config: RevisionConfig, embedding_dim: int, with_encoder: bool = False) -> Bridge:
    """Build the bridge from its parts; the connector trains.

    Args:
        config: The recipe.
        embedding_dim: Width of the embeddings.
        with_encoder: Whether the encoder is part of it, as it is in the finished model only.

    Returns:
        The bridge.

    Raises:
        ValueError: If the correction is for embeddings of another width.
    """
    bridge = _build(config, embedding_dim, with_encoder)
    bridge.trained = [bridge.model.model.connectors[config.bridge.modality]]
    train_only(bridge.model, bridge.trained)
    return bridge


def assemble_stage2(
    config: RevisionConfig, embedding_dim: int, stage1_file: Path | None, with_encoder: bool = False
) -> Bridge:
    """Build the bridge with stage 1's connector, or load it; connector and language model train.

    Args:
        config: The recipe.
        embedding_dim: Width of the embeddings.
        stage1_file: `trained.safetensors` of stage 1; None starts the connector at random.
        with_encoder: Whether the encoder is part of it, as it is in the finished model only.

    Returns:
        The bridge.

    Raises:
        ValueError: If the model has no connector for a store.
    """
    stage = config.stage2
    assert stage is not None
    if stage.start_from is not None:
        bridge = _load(stage.start_from, config.language_model, with_encoder)
    else:
        bridge = _build(config, embedding_dim, with_encoder)
        if stage1_file is not None:
            train_only(bridge.model, [bridge.model.model.connectors[config.bridge.modality]])
            load_trained(stage1_file, trainable_parameters(bridge.model))
    connectors, language_model = bridge.model.model.connectors, bridge.model.model.language_model
    unknown = [name for name in stage.stores if name not in connectors]
    if unknown:
        raise ValueError(f"stage2.stores has {unknown}, but the model has connectors for {list(connectors)} only.")
    bridge.trained = [connectors[name] for name in stage.stores]
    for name in stage.stores:
        bridge.model.config.modality(name).input_noise = 0.0
    if stage.language_model == "lora":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stage.loop.seed)
            bridge.peft_model = add_lora(language_model, stage.lora)
        bridge.trained += lora_modules(bridge.peft_model)
    elif stage.language_model == "full":
        bridge.trained.append(language_model)
    train_only(bridge.model, bridge.trained)
    return bridge


def model_identity(bridge: Bridge) -> dict[str, Any]:
    """Say which model this is: configuration, statistics, and a sample of the weights that it starts from.

    Args:
        bridge: Before training.

    Returns:
        A dict of plain values, for a checkpoint.
    """
    weights = {
        name: p.detach().reshape(-1)[p.numel() // 2].float().item() for name, p in bridge.model.named_parameters()
    }
    corrections = {
        name: {
            "type": correction.correction_type,
            "statistics": _digest_tensors(correction.state_dict()),
        }
        for name, correction in bridge.model.model.corrections.items()
    }
    return {
        "model": _kept(bridge.model.config.to_dict()),
        "correction": corrections,
        "weights": _digest(weights),
    }


def store_identity(store: Any) -> dict[str, Any]:
    """Say which store this is: its size and its shards' checksums."""
    shards = [shard.sha256 for shard in store.manifest.shards]
    return {
        "rows": len(store),
        "dim": store.dim,
        "sha256": hashlib.sha256("".join(shards).encode()).hexdigest()[:16],
    }


def _build(config: RevisionConfig, embedding_dim: int, with_encoder: bool) -> Bridge:
    from hf_modalbridge.corrections import AutoCorrection
    from hf_modalbridge.encoders import load_encoder
    from hf_modalbridge.models import ModalBridgeForConditionalGeneration

    options = config.bridge
    language_model, tokenizer = load_language_model(config.language_model)
    parts: dict[str, Any] = {
        "embedding_dim": embedding_dim,
        "connector_type": options.connector_type,
        "connector_hidden_size": options.connector_hidden_size,
        "num_tokens": options.num_tokens,
        "token_mode": options.token_mode,
        "constant_prompt": options.constant_prompt,
        "input_noise": options.input_noise,
    }
    if options.placeholder_token is not None:
        parts["placeholder_token"] = options.placeholder_token
    if options.correction is not None:
        parts["correction"] = AutoCorrection.from_pretrained(options.correction)
    if with_encoder and options.encoder is not None:
        parts["encoder"], parts["encoder_processor"] = load_encoder(options.encoder, options.encoder_revision)
        parts["encoder_source"] = {"id": options.encoder, "revision": options.encoder_revision}
    loop = next(stage.loop for stage in (config.stage1, config.stage2) if stage is not None)
    model, processor = ModalBridgeForConditionalGeneration.from_components(
        language_model=language_model,
        tokenizer=tokenizer,
        modalities={options.modality: parts},
        language_model_source={"id": config.language_model.id, "revision": config.language_model.revision},
        seed=loop.seed,
    )
    return Bridge(model, processor, [], language_model.dtype)


def _load(directory: str, options: LanguageModelOptions, with_encoder: bool) -> Bridge:
    from transformers import AutoModel, AutoProcessor

    extra = {} if options.attn_implementation is None else {"attn_implementation": options.attn_implementation}
    model = AutoModel.from_pretrained(
        directory, dtype=options.dtype, trust_remote_code=options.trust_remote_code, **extra
    )
    processor = AutoProcessor.from_pretrained(directory, trust_remote_code=options.trust_remote_code)
    if not with_encoder:
        for name in list(model.model.encoders):
            del model.model.encoders[name]
    return Bridge(model, processor, [], model.model.language_model.dtype)


def _kept(values: Any) -> Any:
    """Keep what makes the model what it is, and leave out where it was loaded from."""
    if isinstance(values, dict):
        return {k: _kept(v) for k, v in values.items() if k not in _NOT_IDENTITY and not str(k).startswith("_")}
    return values if isinstance(values, str | int | float | bool | list | None) else str(values)


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _digest_tensors(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.double().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
