"""Bridge-only directories: naming the base models, checking that nobody trained them, fetching them again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, cached_file

from .vocabulary import fit_vocabulary

__all__ = ["check_untouched", "describe_source", "load_bridge_only", "same_weights"]

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
_PROBE_SIZE = 64


def describe_source(model: nn.Module, source: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Describe where a model came from and how to recognise it.

    Args:
        model: A language model or encoder.
        source: `id` and `revision` if the caller knows them; by default the name it was loaded by.

    Returns:
        `{"id", "revision", "probe", "probe_dtype"}`; the probe is one weight each of up to 64 parameters.
    """
    described = {"id": getattr(model, "name_or_path", "") or None, "revision": None, **(source or {})}
    return {**described, "probe": _sample_weights(model), "probe_dtype": _dtype_name(model)}


def same_weights(model: nn.Module, source: Mapping[str, Any]) -> bool:
    """Tell whether a model still has the weights that its source was described with.

    Args:
        model: The model.
        source: What `describe_source` gave; one without a probe matches any model.

    Returns:
        Exact equality at the same dtype; within 1 % at another, which rounds.
    """
    probe = source.get("probe")
    if not probe:
        return True
    found = torch.tensor(_sample_weights(model), dtype=torch.float64)
    expected = torch.tensor(probe, dtype=torch.float64)
    if found.shape != expected.shape:
        return False
    if source.get("probe_dtype") == _dtype_name(model):
        return bool((found == expected).all())
    return torch.allclose(found, expected, rtol=1e-2, atol=1e-6)


def check_untouched(model: Any) -> None:
    """Refuse to save only the bridge when the rest cannot be fetched again.

    Args:
        model: A bridge model.

    Raises:
        ValueError: If a base model has no id, or its weights are no longer those of its source.
    """
    config = model.config
    body = getattr(model, "model", model)
    parts = [("the language model", body.language_model, config.language_model_source)]
    parts += [(f"the encoder of {n!r}", e, config.modalities[n].encoder_source) for n, e in body.encoders.items()]
    for what, module, source in parts:
        if not source or not source.get("id"):
            raise ValueError(
                f"bridge_only=True needs to know where {what} comes from, but the config names no id for it. Build the "
                "model with language_model_source / encoder_source = {'id': ..., 'revision': ...}, or save it whole."
            )
        if not same_weights(module, source):
            raise ValueError(
                f"{what} no longer has the weights of {source['id']!r}: it was trained, or adapters were merged into "
                "it. bridge_only=True would lose that; save the model whole."
            )


def _missing(what: str, path: Any, source: Mapping[str, Any], error: OSError) -> FileNotFoundError:
    """Explain that a base model is not where the bridge says it is."""
    return FileNotFoundError(
        f"the {what} of the bridge {str(path)!r} is not beside it but at {source['id']!r} (revision "
        f"{source.get('revision') or 'main'!r}), and could not be loaded from there: "
        f"{' '.join(str(error).split())[:300]} Check that it still exists and that you may read it."
    )


def load_bridge_only(cls: Any, path: Any, config: Any = None, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Load a `bridge_only=True` directory: base models from their sources, the bridge from its files.

    Args:
        cls: Model class to build.
        path: Directory or repo id.
        config: Its configuration, if already read.
        **kwargs: Hub arguments for `path`; `dtype`, `device_map`, `attn_implementation`, `trust_remote_code`
            and other arguments for the language model.

    Returns:
        The model and a loading report without entries.

    Raises:
        ValueError: If the bridge's tensors, or the base models fetched, are not those of this bridge.
    """
    from hf_modalbridge.encoders import load_encoder

    hub = {key: kwargs.pop(key) for key in _HUB_ARGUMENTS if key in kwargs}
    for internal in ("_from_auto", "adapter_kwargs", "ignore_mismatched_sizes"):
        kwargs.pop(internal, None)
    if config is None or not hasattr(config, "modalities"):
        config = cls.config_class.from_pretrained(config or path, **hub)
    dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", "auto"))
    dtype = config.dtype if dtype in (None, "auto") else dtype
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    shared = {key: hub[key] for key in ("cache_dir", "local_files_only", "token") if key in hub}
    source = config.language_model_source
    try:
        language_model = AutoModelForCausalLM.from_pretrained(
            source["id"], revision=source.get("revision") or "main", dtype=dtype, **shared, **kwargs
        )
    except OSError as error:
        raise _missing("language model", path, source, error) from error
    _check_base(language_model, source, "language model", path)
    fit_vocabulary(language_model, config.text_config.vocab_size)
    encoders = {}
    for name, modality in config.modalities.items():
        if modality.encoder_config is not None:
            origin = modality.encoder_source
            trust = kwargs.get("trust_remote_code", False)
            try:
                encoder, _ = load_encoder(
                    origin["id"], revision=origin.get("revision"), dtype=dtype, trust_remote_code=trust
                )
            except OSError as error:
                raise _missing(f"encoder of {name!r}", path, origin, error) from error
            _check_base(encoder, origin, f"encoder of {name!r}", path)
            encoders[name] = encoder
    config.bridge_only = False  # the model in memory is whole
    config.text_config = language_model.config
    model = cls(config, language_model=language_model, encoders=encoders)
    device = language_model.get_input_embeddings().weight.device
    body = getattr(model, "model", model)
    body.connectors.to(device, dtype)
    body.corrections.to(device)
    body.encoders.to(device)
    _load_bridge_tensors(model, path, hub)
    model.tie_weights()
    if model.can_generate() and cached_file(
        path, GENERATION_CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **hub
    ):
        model.generation_config = GenerationConfig.from_pretrained(path, **hub)
    report: dict[str, Any] = {key: set() for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    return model.eval(), {**report, "error_msgs": []}


def _load_bridge_tensors(model: Any, path: Any, hub: dict[str, Any]) -> None:
    """Read connectors and corrections from the files that the index names."""
    from .saving import bridge_keys, check_report

    weight_map = json.loads(Path(cached_file(path, SAFE_WEIGHTS_INDEX_NAME, **hub)).read_text("utf-8"))["weight_map"]
    tensors = {}
    for name in sorted(set(weight_map.values())):
        tensors.update(load_file(cached_file(path, name, **hub)))
    own = model.state_dict()
    connectors, corrections = bridge_keys(own)
    expected = {*connectors, *corrections}
    check_report(
        {
            "missing_keys": expected - set(tensors),
            "unexpected_keys": set(tensors) - expected,
            "mismatched_keys": [
                (key, tensors[key].shape, own[key].shape)
                for key in expected & set(tensors)
                if tensors[key].shape != own[key].shape
            ],
        },
        path,
        lenient=False,
    )
    model.load_state_dict(tensors, strict=False)


def _check_base(model: nn.Module, source: Mapping[str, Any], what: str, path: Any) -> None:
    if not same_weights(model, source):
        raise ValueError(
            f"the {what} at {source['id']!r} (revision {source.get('revision')!r}) does not have the weights on which "
            f"the bridge {str(path)!r} was trained. It was changed since; pin the right revision in the bridge's "
            "config.json."
        )


def _sample_weights(model: nn.Module) -> list[float]:
    """Take the middle weight of up to 64 parameters; not of vocabularies, which may be resized."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None:
        embeddings |= {id(p) for p in head.parameters()}
    params = [p for p in model.parameters() if p.is_floating_point() and id(p) not in embeddings]
    if len(params) > _PROBE_SIZE:
        params = [params[round(i * (len(params) - 1) / (_PROBE_SIZE - 1))] for i in range(_PROBE_SIZE)]
    return [p.detach().reshape(-1)[p.numel() // 2].float().item() for p in params]


def _dtype_name(model: nn.Module) -> str:
    return str(next(p.dtype for p in model.parameters() if p.is_floating_point())).removeprefix("torch.")
