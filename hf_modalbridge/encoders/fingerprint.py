"""Make the fingerprint of an encoder: its name, and numbers that its weights give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from hf_modalbridge.encoders.encode import encode, encoder_dim, move_inputs, prepare_items
from hf_modalbridge.encoders.registry import get_encoder_spec
from hf_modalbridge.fingerprint import describe_fingerprint, fingerprints_match

__all__ = ["describe_fingerprint", "encoder_fingerprint", "fingerprints_match", "probe_item"]

_PROBE_LENGTH = 8


def probe_item(modality: str, sampling_rate: int = 48_000) -> Any:
    """Give the raw item that an encoder of a modality is probed with.

    Args:
        modality: The modality.
        sampling_rate: Of the sound, in Hz.

    Returns:
        A sentence, a picture or a sound, the same on every machine; None for a modality that has none.
    """
    if modality == "text":
        return "a red bicycle beside a wall"
    if modality == "image":
        y, x = np.mgrid[0:64, 0:64]
        waves = np.stack([128 + 96 * np.sin(x / 5 + y / 11), x * 4, 255 - ((x // 8 + y // 8) % 2) * 160], axis=-1)
        return Image.fromarray(waves.astype(np.uint8))
    if modality == "audio":
        seconds = np.arange(sampling_rate, dtype=np.float64) / sampling_rate
        return (0.5 * np.sin(2 * np.pi * (220 + 660 * seconds) * seconds)).astype(np.float32)
    return None


@torch.inference_mode()
def encoder_fingerprint(
    model: nn.Module, processor: Any, modality: str, id: str | None = None, revision: str | None = None
) -> dict[str, Any]:
    """Record which encoder embeddings come from.

    Args:
        model: The encoder.
        processor: Its processor.
        modality: The side of it that is used.
        id: Repository id or name; None for what the model was loaded from. Of a folder its name only.
        revision: Commit or branch; None for what the model was loaded from.

    Returns:
        `id`, `revision`, `modality`, `dim`, `normalized` (True: what `encode` gives by default) and `probe`:
        the first eight numbers of the unit embedding of `probe_item`, times sqrt(dim) so that they are of
        size one in any width, rounded to four places; an empty list if the modality has no such item.
    """
    spec = get_encoder_spec(getattr(model.config, "model_type", ""))
    item = (spec.probe_items if spec else {}).get(modality)
    if item is None:
        extractor = getattr(processor, "feature_extractor", processor)
        item = probe_item(modality, int(getattr(extractor, "sampling_rate", None) or 48_000))
    dim, probe = None, []
    if item is not None:
        was_training = model.training
        model.eval()
        inputs = move_inputs(prepare_items(processor, modality, [item], model.config), model.device)
        row = encode(model, modality, inputs)[0]
        model.train(was_training)
        dim = row.numel()
        probe = [round(float(value) * dim**0.5, 4) for value in row[:_PROBE_LENGTH]]
    name = id or getattr(model.config, "_name_or_path", None) or model.config.model_type
    if Path(name).is_dir():  # a folder's place on this machine is nobody else's business
        name = Path(name).resolve().name
    return {
        "id": name,
        "revision": revision or getattr(model.config, "_commit_hash", None),
        "modality": modality,
        "dim": dim or encoder_dim(model.config),
        "normalized": True,
        "probe": probe,
    }
