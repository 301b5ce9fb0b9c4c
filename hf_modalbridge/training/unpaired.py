"""The unpaired route: stage 1 on text alone, stage 2 on chats about real embeddings (arXiv 2602.07026)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_modalbridge.data import BridgeCollator, CaptionDataset, ChatDataset, read_chats

from .assembly import Bridge, assemble_stage1, assemble_stage2, model_identity, store_identity
from .checkpoint import CheckpointFolder
from .config import RevisionConfig, Stage1Config
from .export import export_model, say
from .loop import TrainResult, train
from .warm_start import warm_start_connector

__all__ = ["StageResult", "run_revision", "run_stage1", "run_stage2"]

_KINDS = {"text": "imagine_embeds", "modality": "embeds"}


@dataclass
class StageResult:
    """Product of a stage.

    Args:
        training: Losses and the last checkpoint.
        model_dir: The complete model, for `AutoModel.from_pretrained`.
    """

    training: TrainResult
    model_dir: Path


def run_revision(config: RevisionConfig) -> dict[str, StageResult]:
    """Run the stages that the recipe has; what is finished is not run again.

    Args:
        config: The recipe.

    Returns:
        `{"stage1": ..., "stage2": ...}`, those that the recipe has.

    Raises:
        ValueError: If the recipe has neither stage.
    """
    if config.stage1 is None and config.stage2 is None:
        raise ValueError("the recipe has neither 'stage1' nor 'stage2': give the keys of at least one of them.")
    results = {}
    if config.stage1 is not None:
        results["stage1"] = run_stage1(config)
    if config.stage2 is not None:
        results["stage2"] = run_stage2(config, results.get("stage1"))
    return results


def run_stage1(config: RevisionConfig) -> StageResult:
    """Train the connector on text embeddings that the correction moves (ReVision, stage 1).

    `L = - sum_t log p(w_t | w_<t, connector(correction(y)))`: the caption w is the source of the text
    embedding y and the supervision. No encoder is in memory; the noise of a C3 correction is drawn anew at every step.

    Args:
        config: The recipe; `config.stage1` must be there.

    Returns:
        Losses and the model directory.

    Raises:
        ValueError: If the store is of another encoder or width than the correction, or a checkpoint of another run.
    """
    from hf_modalbridge.store import EmbeddingStore

    stage = config.stage1
    assert stage is not None
    output, name = Path(config.output_dir) / "stage1", config.bridge.modality
    store = EmbeddingStore.open(stage.store)
    bridge = assemble_stage1(config, store.dim)
    model = bridge.model
    _check_store(model, name, store, stage.embeddings)
    dataset, held_out = _caption_sets(stage, store, bridge, name)
    collate = BridgeCollator(bridge.processor)
    identity = {
        "stage": 1,
        **model_identity(bridge),
        "data": {
            "store": store_identity(store),
            "held_out_store": None if held_out is None else store_identity(held_out.embeddings.source),
            **{key: getattr(stage, key) for key in ("embeddings", "text_column", "max_length", "held_out_rows")},
        },
        "warm_start": None if stage.warm_start is None else vars(stage.warm_start),
    }
    if stage.warm_start is not None and not CheckpointFolder(output / "checkpoints").steps():
        share = warm_start_connector(
            model, name, dataset, collate, ridge=stage.warm_start.ridge, rows=stage.warm_start.rows
        )
        say(f"warm start: the ridge map explains {share:.3f} of the variance of mean token embeddings")
    # only a module in training mode adds C3's noise
    modules = [*bridge.trained, *([model.model.corrections[name]] if name in model.model.corrections else [])]
    result = train(
        model,
        dataset,
        collate,
        stage.loop,
        output,
        eval_dataset=held_out,
        train_modules=modules,
        identity=identity,
    )
    del model, bridge
    export_model(output / "model", result, lambda: assemble_stage1(config, store.dim, with_encoder=True), stage.loop)
    return StageResult(result, output / "model")


def run_stage2(config: RevisionConfig, stage1: StageResult | None = None) -> StageResult:
    """Train connector and language model on chats about real embeddings (ReVision, stage 2).

    Args:
        config: The recipe; `config.stage2` must be there.
        stage1: Stage 1's product; None looks for it in the output directory, if the recipe names no other start.

    Returns:
        Losses and the model directory.

    Raises:
        ValueError: If a store is of another encoder, a chat has no answer, or a checkpoint is of another run.
    """
    from hf_modalbridge.store import EmbeddingStore

    stage = config.stage2
    assert stage is not None
    output = Path(config.output_dir) / "stage2"
    stores = {name: EmbeddingStore.open(path) for name, path in stage.stores.items()}
    if config.bridge.modality not in stores and stage.start_from is None:
        raise ValueError(
            f"stage2.stores has {sorted(stores)}, but the bridge's modality is {config.bridge.modality!r}."
        )
    dim = stores[config.bridge.modality].dim if config.bridge.modality in stores else 0
    start = None if stage.start_from is not None else _stage1_file(config, stage1)
    bridge = assemble_stage2(config, dim, start)
    model = bridge.model
    for name, store in stores.items():
        _check_store(model, name, store, "modality")
    chats, held_out_chats = read_chats(stage.chats), None
    if stage.held_out_chats is not None:
        held_out_chats = read_chats(stage.held_out_chats)
    elif stage.held_out_rows:
        kept, held = _split(len(chats), stage.held_out_rows, stage.loop.seed)
        chats, held_out_chats = [chats[i] for i in kept], [chats[i] for i in held]
    options = {"max_length": stage.max_length, "lazy": stage.lazy_tokenization}
    dataset = ChatDataset(chats, stores, bridge.processor, **options)
    held_out = None if held_out_chats is None else ChatDataset(held_out_chats, stores, bridge.processor, **options)
    always = set(stores) <= dataset.every_chat_has
    if stage.language_model == "frozen" and not always:
        raise ValueError(
            "stage2.language_model is 'frozen', but some chats have no item of "
            f"{sorted(set(stores) - dataset.every_chat_has)}, so nothing in them could train: leave those chats out, "
            "or choose 'lora' or 'full'."
        )
    identity = {
        "stage": 2,
        **model_identity(bridge),
        "data": {
            "stores": {name: store_identity(store) for name, store in stores.items()},
            "chats": hashlib.sha256(json.dumps([chats, held_out_chats]).encode()).hexdigest()[:16],
            "max_length": stage.max_length,
        },
        "language_model": stage.language_model,
        "lora": vars(stage.lora) if stage.language_model == "lora" else None,
    }
    connectors = [model.model.connectors[name] for name in stores]
    modules = connectors if stage.language_model == "frozen" else [*connectors, model.model.language_model]
    rate = stage.connector_learning_rate
    result = train(
        model,
        dataset,
        BridgeCollator(bridge.processor),
        stage.loop,
        output,
        eval_dataset=held_out,
        train_modules=modules,
        learning_rates={} if rate is None else dict.fromkeys(connectors, rate),
        identity=identity,
        find_unused_parameters=not always,
    )
    del model, bridge, modules, connectors
    export_model(output / "model", result, lambda: assemble_stage2(config, dim, start, with_encoder=True), stage.loop)
    return StageResult(result, output / "model")


def _caption_sets(stage: Stage1Config, store: Any, bridge: Bridge, name: str) -> tuple[Any, Any]:
    """Training and held-out captions of stage 1."""
    from hf_modalbridge.store import EmbeddingStore

    rows = held_rows = None
    held_store, held_kind = None, stage.held_out_embeddings or stage.embeddings
    if stage.held_out_store is not None:
        held_store = EmbeddingStore.open(stage.held_out_store)
        _check_store(bridge.model, name, held_store, held_kind)
    elif stage.held_out_rows:
        held_store, held_kind = store, stage.embeddings
        rows, held_rows = _split(len(store), stage.held_out_rows, stage.loop.seed)
    options: dict[str, Any] = {"text_column": stage.text_column, "max_length": stage.max_length}
    kind: Any = _KINDS[stage.embeddings]
    dataset = CaptionDataset(store, bridge.processor, name, kind=kind, rows=rows, **options)
    if held_store is None:
        return dataset, None
    kind = _KINDS[held_kind]
    return dataset, CaptionDataset(held_store, bridge.processor, name, kind=kind, rows=held_rows, **options)


def _split(rows: int, held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    if held_out >= rows:
        raise ValueError(f"held_out_rows is {held_out}, but there are only {rows} rows: leave some to train on.")
    order = np.random.default_rng([seed, rows]).permutation(rows)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _check_store(model: Any, name: str, store: Any, kind: str) -> None:
    """Refuse a store of another encoder or width than the bridge's."""
    dim = model.config.modality(name).embedding_dim
    if store.dim != dim:
        raise ValueError(
            f"the store {str(store.path)!r} has embeddings of width {store.dim}, but modality {name!r} has "
            f"{dim}: use a store of the encoder that the correction was fitted on."
        )
    if name in model.model.corrections:
        model.model.corrections[name].check_encoder(store.encoder, "source" if kind == "text" else "target")
    elif kind == "text":
        raise ValueError(
            "stage1.embeddings is 'text', but bridge.correction is missing: fit one with "
            "recipes/fit_correction.py (type 'none' passes text embeddings through unchanged)."
        )


def _stage1_file(config: RevisionConfig, stage1: StageResult | None) -> Path | None:
    """The connector that stage 1 trained, if there was a stage 1."""
    if stage1 is not None:
        assert stage1.training.checkpoint is not None
        return stage1.training.checkpoint / "trained.safetensors"
    folder = CheckpointFolder(Path(config.output_dir) / "stage1" / "checkpoints")
    steps = folder.steps()
    return folder.path(steps[-1]) / "trained.safetensors" if steps else None
