"""Load an encoder with its processor, of this package, of transformers or of a plug-in, by one function."""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel

from hf_modalbridge.encoders.encode import readable_modalities
from hf_modalbridge.encoders.registry import get_encoder_spec, load_plugins

__all__ = ["load_encoder"]


def load_encoder(
    id_or_path: str | PathLike,
    revision: str | None = None,
    dtype: torch.dtype | str | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, Any]:
    """Load a frozen encoder and what prepares its items.

    Args:
        id_or_path: Hub repository or directory.
        revision: Branch, tag or commit of the repository.
        dtype: Precision to load in; None for the checkpoint's own.
        trust_remote_code: Whether code that comes with the checkpoint may run.

    Returns:
        The model, in evaluation mode and without gradients, and its processor.

    Raises:
        ValueError: If the checkpoint lacks weights, reads no modality, or its processor does not load.
    """
    load_plugins()
    name = str(id_or_path)
    common = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(name, **common)
    spec = get_encoder_spec(config.model_type)
    model_class = spec.model_class if spec and spec.model_class else AutoModel
    options = {} if dtype is None else {"dtype": dtype}
    if model_class is AutoModel:
        options["trust_remote_code"] = trust_remote_code
    model, info = model_class.from_pretrained(
        name, config=config, revision=revision, output_loading_info=True, **options
    )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(
            f"the checkpoint {name} lacks {len(missing)} tensors of {type(model).__name__}, first "
            f"{missing[0]!r}; they would be random. Check that config.json and the weights belong together."
        )
    modalities = readable_modalities(model)
    if not modalities:
        raise ValueError(
            f"{type(model).__name__} from {name} is no encoder of items: it has no get_<modality>_features method. "
            "Load a dual encoder (CLIP, SigLIP, CLAP, ...) or register a class that wraps this one."
        )
    processor_class = spec.processor_class if spec and spec.processor_class else None
    if processor_class is not None:
        processor = processor_class.from_pretrained(name, revision=revision)
    else:
        processor = AutoProcessor.from_pretrained(name, **common)
    if "image" in modalities and not hasattr(processor, "image_processor") and hasattr(processor, "vocab_size"):
        # AutoProcessor's silent fallback when it does not know the processor's class
        raise ValueError(
            f"only a tokenizer ({type(processor).__name__}) was found for {name}, which reads images; add its "
            "preprocessor_config.json and processor_config.json."
        )
    model.requires_grad_(False)
    return model.eval(), processor
