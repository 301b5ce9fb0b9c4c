"""Say what a directory or repository holds: a store, a correction, a bridge or an encoder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from hf_modalbridge.fingerprint import describe_fingerprint
from hf_modalbridge.licences import find_licence

__all__ = ["describe"]

Sections = dict[str, dict[str, str]]


def describe(path_or_repo: str | os.PathLike[str], revision: str | None = None, online: bool = False) -> Sections:
    """Describe a store, correction or model without loading its tensors.

    Args:
        path_or_repo: Directory, or repo id on the Hub.
        revision: Branch, tag or commit on the Hub.
        online: Whether to ask the Hub for licences that are not known on this machine.

    Returns:
        Sections of labelled values; the title of the first section says what it is.

    Raises:
        FileNotFoundError: If there is no such directory or repo, or it holds none of these.
        ValueError: If a file in it is damaged.
    """
    from hf_modalbridge.corrections.saving import load_config

    folder = Path(path_or_repo)
    if (folder / "manifest.json").is_file():
        return _store(folder, online)
    config = load_config(path_or_repo, revision)
    if "correction_type" in config:
        return {f"correction {path_or_repo}": _correction(config) | _licences_of_sides(config, online)}
    if config.get("model_type") == "modalbridge":
        return _bridge(str(path_or_repo), config, revision, online)
    if "model_type" in config:
        return {
            f"model {path_or_repo}": {
                "type": str(config["model_type"]),
                "architectures": ", ".join(config.get("architectures") or ["not recorded"]),
                "licence": find_licence(str(path_or_repo), revision, online),
            }
            | _size(folder)
        }
    raise FileNotFoundError(
        f"{path_or_repo} holds no embedding store, correction or model: its config.json has neither "
        "'correction_type' nor 'model_type'."
    )


def _store(folder: Path, online: bool) -> Sections:
    from hf_modalbridge.store import EmbeddingStore

    store = EmbeddingStore.open(folder, allow_incomplete=True)
    manifest = store.manifest
    encoder = store.encoder or {}
    facts = {
        "rows": f"{len(store):,}" + ("" if manifest.complete else " so far; its writer was stopped (resume it)"),
        "embeddings": f"{store.dim}-d {manifest.dtype}, {'unit rows' if store.normalized else 'not normalised'}",
        "shards": f"{len(manifest.shards)}, {sum(f.stat().st_size for f in folder.iterdir()) / 1e6:,.1f} MB in all",
        "columns": ", ".join(["id", *store.columns]),
        "encoder": describe_fingerprint(store.encoder),
        "encoder's licence": find_licence(encoder.get("id"), encoder.get("revision"), online),
        "first ids": ", ".join(str(name) for name in store.ids[:3]),
    }
    return {f"embedding store {folder}": facts}


def _correction(config: Mapping[str, Any]) -> dict[str, str]:
    known = {"correction_type", "dim", "source_encoder", "target_encoder", "source_rows", "target_rows"}
    hyper = {k: v for k, v in config.items() if k not in known | {"format_version", "library_version"}}
    from hf_modalbridge.corrections import AutoCorrection

    kind = AutoCorrection.types().get(config["correction_type"])
    return {
        "type": str(config["correction_type"]),
        "width": str(config.get("dim")),
        "hyper-parameters": ", ".join(f"{k} = {v}" for k, v in hyper.items()) or "none",
        "source": f"{describe_fingerprint(config.get('source_encoder'))}, {config.get('source_rows', 0):,} rows",
        "target": f"{describe_fingerprint(config.get('target_encoder'))}, {config.get('target_rows', 0):,} rows",
        "fitted on": "unknown" if kind is None else "pairs" if kind.paired else "rows without partners",
        "fitted with": f"hf_modalbridge {config.get('library_version', 'unknown')}",
    }


def _licences_of_sides(config: Mapping[str, Any], online: bool) -> dict[str, str]:
    encoders = [config.get(f"{side}_encoder") or {} for side in ("source", "target")]
    named = {e["id"]: e.get("revision") for e in encoders if e.get("id")}
    return {f"licence of {name}": find_licence(name, revision, online) for name, revision in named.items()}


def _bridge(name: str, config: Mapping[str, Any], revision: str | None, online: bool) -> Sections:
    text = config.get("text_config") or {}
    base = config.get("language_model_source") or {}
    facts = {
        "licence": find_licence(name, revision, online),
        "language model": f"{base.get('id') or 'source not recorded'} ({text.get('model_type')}, "
        f"width {text.get('hidden_size') or text.get('n_embd')})",
        "language model's licence": find_licence(base.get("id"), base.get("revision"), online),
        "weights": "bridge only; the rest comes from the sources named here" if config.get("bridge_only") else "whole",
    }
    for key, value in (config.get("metadata") or {}).items():
        facts[f"metadata: {key}"] = value if isinstance(value, str) else json.dumps(value)
    sections = {f"model {name}": facts | _size(Path(name))}
    for modality, entry in (config.get("modalities") or {}).items():
        source, encoder = entry.get("encoder_source") or {}, entry.get("encoder_config")
        tokens = entry.get("constant_prompt", 0) + entry.get("num_tokens", 0)
        rows = {
            "embedding": f"{entry.get('embedding_dim')}-d",
            "tokens": f"{tokens} at {entry.get('placeholder_token')}, {entry.get('token_mode')}, "
            f"{entry.get('constant_prompt', 0)} of them constant",
            "connector": str(entry.get("connector_type")),
            "encoder": f"{source.get('id') or 'source not recorded'} ({encoder.get('model_type')})"
            if encoder
            else "none: takes ready embeddings",
        }
        if encoder or source:
            rows["encoder's licence"] = find_licence(source.get("id"), source.get("revision"), online)
        if entry.get("correction_config"):
            rows |= {f"correction: {k}": v for k, v in _correction(entry["correction_config"]).items()}
        else:
            rows["correction"] = "none"
        sections[f"modality {modality}"] = rows
    return sections


def _size(folder: Path) -> dict[str, str]:
    """Count the numbers in the safetensors files of a directory, from their headers."""
    from safetensors import safe_open

    total = size = 0
    for path in sorted(folder.glob("*.safetensors")):
        size += path.stat().st_size
        with safe_open(path, "np") as file:
            total += sum(prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return {"size": f"{total:,} numbers, {size / 1e6:,.1f} MB"} if size else {}
