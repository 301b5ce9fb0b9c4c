"""Which encoders there are: a registry that other packages join without this one being edited."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.image_processing_utils import BaseImageProcessor

__all__ = [
    "ENTRY_POINT_GROUP",
    "EncoderSpec",
    "build_encoder",
    "get_encoder_spec",
    "list_encoders",
    "register_encoder",
]

ENTRY_POINT_GROUP = "hf_modalbridge.encoders"

# Dual encoders of transformers that are known to follow the protocol (`get_<modality>_features`). Others that
# do work as well; this table only says so before any weights are there.
_TRANSFORMERS_ENCODERS: dict[str, tuple[str, ...]] = {
    "align": ("image", "text"),
    "altclip": ("image", "text"),
    "chinese_clip": ("image", "text"),
    "clap": ("audio", "text"),
    "clip": ("image", "text"),
    "metaclip_2": ("image", "text"),
    "siglip": ("image", "text"),
    "siglip2": ("image", "text"),
    "vision-text-dual-encoder": ("image", "text"),
    "xclip": ("video", "text"),
}


@dataclass(frozen=True)
class EncoderSpec:
    """What is known about one kind of encoder.

    Args:
        model_type: The `model_type` of its config.
        config_class: Its config class; None for one that transformers resolves.
        model_class: Its model class; None for one that transformers resolves.
        processor_class: Class whose `from_pretrained` gives what prepares its raw items; None for AutoProcessor.
        modalities: The modalities it reads, "text" among them if it is a dual encoder.
        probe_items: For each modality a raw item whose embedding identifies the weights.
    """

    model_type: str
    config_class: type[PreTrainedConfig] | None = None
    model_class: type[PreTrainedModel] | None = None
    processor_class: type | None = None
    modalities: tuple[str, ...] = ()
    probe_items: Mapping[str, Any] = field(default_factory=dict)


_REGISTRY: dict[str, EncoderSpec] = {
    model_type: EncoderSpec(model_type, modalities=modalities)
    for model_type, modalities in _TRANSFORMERS_ENCODERS.items()
}
_loaded_entry_points: set[str] = set()


def register_encoder(
    model_type: str,
    *,
    config_class: type[PreTrainedConfig] | None = None,
    model_class: type[PreTrainedModel] | None = None,
    processor_class: type | None = None,
    modalities: Iterable[str] | None = None,
    probe_items: Mapping[str, Any] | None = None,
) -> EncoderSpec:
    """Make an encoder known, here and to transformers' Auto classes.

    An encoder is a `PreTrainedModel` with a method `get_<modality>_features(**inputs)` for each modality it
    reads, giving a tensor `(items, dim)` or an output whose `pooler_output` is that. A package of its own
    registers by an entry point of the group `hf_modalbridge.encoders` whose object is a function without
    arguments that calls `register_encoder`.

    Args:
        model_type: The `model_type` of its config.
        config_class: Its config class, unless transformers knows it already.
        model_class: Its model class, unless transformers knows it already.
        processor_class: Class of its processor (a processor, image processor or feature extractor).
        modalities: What it reads; None to find out from the `get_<modality>_features` methods of `model_class`.
        probe_items: For each modality a raw item whose embedding identifies the weights; text, image and
            audio have one anyway.

    Returns:
        The entry made.

    Raises:
        ValueError: If the name is taken by other classes, does not agree with `config_class.model_type`, or
            no modality is given or found.
    """
    if config_class is not None and config_class.model_type != model_type:
        raise ValueError(
            f"register_encoder got model_type {model_type!r} for a config class whose model_type is "
            f"{config_class.model_type!r} ({config_class.__name__}); use one name for both."
        )
    found = tuple(modalities) if modalities is not None else class_modalities(model_class)
    if not found:
        raise ValueError(
            f"register_encoder found no modality for {model_type!r}: {_class_name(model_class)} has no "
            "get_<modality>_features method. Add one for each modality, or say modalities=(...)."
        )
    spec = EncoderSpec(model_type, config_class, model_class, processor_class, found, dict(probe_items or {}))
    known = _REGISTRY.get(model_type)
    if known is not None and (known.config_class, known.model_class) not in (
        (None, None),
        (config_class, model_class),
    ):
        raise ValueError(
            f"register_encoder got {model_type!r} for {_class_name(model_class)}, but that name belongs to "
            f"{_class_name(known.model_class)}; choose another model_type."
        )
    _REGISTRY[model_type] = spec
    if config_class is not None:
        AutoConfig.register(model_type, config_class, exist_ok=True)
        if model_class is not None:
            AutoModel.register(config_class, model_class, exist_ok=True)
        if processor_class is not None:
            if isinstance(processor_class, type) and issubclass(processor_class, BaseImageProcessor):
                AutoImageProcessor.register(
                    config_class, image_processor_classes={"pil": processor_class}, exist_ok=True
                )
            else:
                if isinstance(processor_class, type) and issubclass(processor_class, FeatureExtractionMixin):
                    AutoFeatureExtractor.register(config_class, processor_class, exist_ok=True)
                AutoProcessor.register(config_class, processor_class, exist_ok=True)
    return spec


def _class_name(model_class: type | None) -> str:
    return "no model class" if model_class is None else model_class.__name__


def class_modalities(model_class: type | None) -> tuple[str, ...]:
    """List the modalities that a model class has a `get_<modality>_features` method for.

    Args:
        model_class: A model class or None.

    Returns:
        Names in alphabetical order, text last.
    """
    names = {
        name.removeprefix("get_").removesuffix("_features")
        for name in dir(model_class)
        if name.startswith("get_") and name.endswith("_features") and callable(getattr(model_class, name, None))
    } - {"", "multimodal"}
    return tuple(sorted(names, key=lambda name: (name == "text", name)))


def load_plugins() -> None:
    """Call the entry points of the group `hf_modalbridge.encoders`, each once a process.

    One that fails is named in a warning and left out, so that a broken package does not take the others along.
    """
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        key = f"{entry.name} = {entry.value}"
        if key in _loaded_entry_points:
            continue
        _loaded_entry_points.add(key)
        try:
            entry.load()()
        except Exception as error:  # whatever a foreign package raises
            warnings.warn(
                f"the encoder plug-in {key!r} failed and is left out: {type(error).__name__}: {error}",
                stacklevel=2,
            )


def list_encoders() -> dict[str, EncoderSpec]:
    """List the encoders that are known by name, those of installed plug-ins included.

    Returns:
        `model_type` to entry. Any other model of transformers that follows the protocol works too.
    """
    load_plugins()
    return dict(sorted(_REGISTRY.items()))


def get_encoder_spec(model_type: str) -> EncoderSpec | None:
    """Look an encoder up, asking plug-ins only if it is not there already.

    Args:
        model_type: The `model_type` of a config.

    Returns:
        Its entry, or None for one that only transformers may know.
    """
    if model_type not in _REGISTRY:
        load_plugins()
    return _REGISTRY.get(model_type)


def build_encoder(config: PreTrainedConfig | Mapping[str, Any], **kwargs: Any) -> PreTrainedModel:
    """Build an encoder with fresh weights from its config.

    Own classes come from this registry rather than from `AutoModel`, whose table holds the config class of
    one import only and misses that of a repository's remote code.

    Args:
        config: A config, or its dict with "model_type".
        **kwargs: Given to transformers, such as `dtype`.

    Returns:
        The model.

    Raises:
        ValueError: If no model type is given, or neither the registry nor transformers knows it.
    """
    make: Callable[..., PreTrainedModel]
    config = resolve_config(config)
    spec = get_encoder_spec(config.model_type)
    make = spec.model_class._from_config if spec and spec.model_class else AutoModel.from_config
    return make(config, **kwargs)


def resolve_config(config: PreTrainedConfig | Mapping[str, Any]) -> PreTrainedConfig:
    """Give an encoder's config as an object.

    Args:
        config: A config, or its dict with "model_type".

    Returns:
        The config.

    Raises:
        ValueError: If no model type is given, or neither the registry nor transformers knows it.
    """
    if isinstance(config, PreTrainedConfig):
        return config
    values = dict(config)
    model_type = values.pop("model_type", None)
    if model_type is None:
        raise ValueError(f"an encoder's config needs 'model_type'; got the keys {sorted(values)}.")
    spec = get_encoder_spec(model_type)
    if spec is not None and spec.config_class is not None:
        return spec.config_class(**values)
    try:
        return AutoConfig.for_model(model_type, **values)
    except ValueError as error:
        raise ValueError(
            f"no encoder of model_type {model_type!r} is known. Install the package that registers it (entry-point "
            f"group {ENTRY_POINT_GROUP!r}), call register_encoder, or use one of: {', '.join(sorted(_REGISTRY))}."
        ) from error
