"""Saving and loading the processors of encoders, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["ENCODER_PROCESSORS", "load_encoder_processors", "save_encoder_processors"]

ENCODER_PROCESSORS = "encoder_processors"
_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "trust_remote_code")


def save_encoder_processors(directory: Path, processors: Mapping[str, Any]) -> None:
    """Save each to `encoder_processors/<modality>/`.

    Args:
        directory: The model's directory.
        processors: By modality.
    """
    for name, processor in processors.items():
        processor.save_pretrained(str(directory / ENCODER_PROCESSORS / name))


def load_encoder_processors(source: Any, modalities: Mapping[str, dict[str, Any]], **kwargs: Any) -> dict[str, Any]:
    """Load those that `modalities` says were saved.

    Args:
        source: Directory or repo id.
        modalities: The processor's modalities; the key `encoder_processor_class` is taken out of them.
        **kwargs: Hub arguments.

    Returns:
        Processors by modality.

    Raises:
        ValueError: If a processor of another class comes back than was saved.
    """
    loaded = {}
    for name, spec in modalities.items():
        wanted = spec.pop("encoder_processor_class", None)
        if wanted is not None:
            loaded[name] = _load(str(source), f"{ENCODER_PROCESSORS}/{name}", wanted, kwargs)
    return loaded


def _load(source: str, folder: str, wanted: str, kwargs: Mapping[str, Any]) -> Any:
    """Load one and check its class: AutoProcessor gives a bare tokenizer for a class it cannot find."""
    from transformers import (
        AutoFeatureExtractor,
        AutoImageProcessor,
        AutoProcessor,
        AutoTokenizer,
    )  # see _registration

    hub = {key: kwargs[key] for key in _HUB_ARGUMENTS if key in kwargs}
    if Path(source).is_dir():
        where: dict[str, Any] = {"pretrained_model_name_or_path": str(Path(source) / folder)}
    else:
        where = {"pretrained_model_name_or_path": source, "subfolder": folder}
    own = _registered(wanted)
    problems = []
    for loader in [own] if own else [AutoProcessor, AutoImageProcessor, AutoFeatureExtractor, AutoTokenizer]:
        try:
            processor = loader.from_pretrained(**where, **hub)
        except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
            problems.append(f"{loader.__name__}: {str(error).splitlines()[0] if str(error) else error!r}")
            continue
        # transformers picks between backends of one image processor: CLIPImageProcessor, ...Pil, ...Fast
        if type(processor).__name__.removesuffix("Pil").removesuffix("Fast") == wanted.removesuffix("Pil").removesuffix(
            "Fast"
        ):
            return processor
        problems.append(f"{loader.__name__} gave {type(processor).__name__}")
    raise ValueError(
        f"the encoder processor in {folder!r} of {source!r} was saved as {wanted}, which could not be loaded "
        f"({'; '.join(problems)}). Install or import the package that defines it (register_encoder) first."
    )


def _registered(wanted: str) -> Any:
    """Find the class among the processors of registered encoders."""
    from hf_modalbridge.encoders import list_encoders

    for spec in list_encoders().values():
        if spec.processor_class is not None and spec.processor_class.__name__ == wanted:
            return spec.processor_class
    return None
