"""What a saved thing gives for fixed inputs: how two copies of it are compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["bundle_outputs", "kind_of", "model_inputs", "outputs"]

_ROWS = 4
_STORE_ROWS = 1000


def kind_of(directory: str | os.PathLike[str]) -> str:
    """Tell what a directory holds by its files.

    Args:
        directory: Of something that this library saves.

    Returns:
        "store", "correction", "model" (a bridge), "encoder" or "processor".

    Raises:
        FileNotFoundError: If it holds none of these.
    """
    folder = Path(directory)
    if (folder / "manifest.json").is_file():
        return "store"
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    if "correction_type" in config:
        return "correction"
    if "model_type" in config:
        return "model" if config["model_type"] == "modalbridge" else "encoder"
    if (folder / "processor_config.json").is_file() or (folder / "preprocessor_config.json").is_file():
        return "processor"
    raise FileNotFoundError(
        f"{folder} holds no embedding store, correction, model, encoder or processor: it has no manifest.json "
        "and no config.json or processor_config.json of one. Save one there first."
    )


def outputs(directory: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Load what a directory holds, and compute its outputs for fixed inputs.

    Args:
        directory: Of a store, correction, model, encoder or processor.

    Returns:
        Tensors by name; equal for equal copies on the same machine.
    """
    folder, kind = Path(directory), kind_of(directory)
    with torch.inference_mode():
        if kind == "store":
            return _store_outputs(folder)
        if kind == "correction":
            return _correction_outputs(folder)
        if kind == "model":
            found = _model_outputs(folder)
            return found | (_processor_outputs(folder) if (folder / "processor_config.json").is_file() else {})
        return _encoder_outputs(folder) if kind == "encoder" else _processor_outputs(folder)


def model_inputs(config: Any) -> dict[str, Tensor]:
    """Make the fixed inputs of a bridge.

    Args:
        config: Its configuration.

    Returns:
        For each modality `NAME.input_ids` `(1, length)`, one item and a few tokens, and `NAME.embeds`.
    """
    inputs = {}
    for name, modality in config.modalities.items():
        generator = torch.Generator().manual_seed(0)
        words = [i for i in range(1, min(12, config.text_config.vocab_size)) if i not in config.placeholder_token_ids]
        ids = [modality.placeholder_token_id] * modality.tokens_per_item + words
        inputs[f"{name}.input_ids"] = torch.tensor([ids])
        width = modality.embedding_dim * (modality.input_tokens or 1)
        inputs[f"{name}.embeds"] = torch.randn(1, width, generator=generator)
    return inputs


def bundle_outputs(directory: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Compute a bridge's outputs in a process where `hf_modalbridge` cannot be imported, from its bundle.

    Args:
        directory: Of a model with its bundle; its code is run.

    Returns:
        Logits by modality, as `outputs` gives them.

    Raises:
        ValueError: If that process fails; with the end of what it said.
    """
    from hf_modalbridge import ModalBridgeConfig

    with tempfile.TemporaryDirectory() as scratch:
        save_file(model_inputs(ModalBridgeConfig.from_pretrained(directory)), Path(scratch) / "in.safetensors")
        command = [sys.executable, "-c", _ALONE, str(Path(directory).resolve()), scratch]
        environment = {**os.environ, "HF_MODULES_CACHE": str(Path(scratch) / "modules")}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=scratch, check=False)
        if done.returncode:
            raise ValueError(
                f"the bundle in {directory} does not load by itself: {done.stderr.strip()[-1500:]}. Push with "
                "bundle=False (--no-bundle) to leave it out."
            )
        return load_file(Path(scratch) / "out.safetensors")


_ALONE = """
import sys
sys.modules["hf_modalbridge"] = None
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
given, logits = load_file(sys.argv[2] + "/in.safetensors"), {}
for name in model.config.modalities:
    with torch.inference_mode():
        items = {name: {"embeds": given[name + ".embeds"]}}
        logits[name + ".logits"] = model(given[name + ".input_ids"], modality_inputs=items).logits.float()
save_file(logits, sys.argv[2] + "/out.safetensors")
"""


def _model_outputs(folder: Path) -> dict[str, Tensor]:
    from hf_modalbridge import ModalBridgeForConditionalGeneration

    model = ModalBridgeForConditionalGeneration.from_pretrained(folder).eval()
    given, found = model_inputs(model.config), {}
    for name in model.config.modalities:
        items = {name: {"embeds": given[f"{name}.embeds"]}}
        found[f"{name}.logits"] = model(given[f"{name}.input_ids"], modality_inputs=items).logits.float()
        if name in model.model.corrections:
            found[f"{name}.imagined"] = model.imagine(name, given[f"{name}.embeds"])
    return found


def _processor_outputs(folder: Path) -> dict[str, Tensor]:
    from transformers import AutoProcessor

    from hf_modalbridge import ModalBridgeProcessor

    processor = AutoProcessor.from_pretrained(folder)
    if not isinstance(processor, ModalBridgeProcessor):
        return {}
    texts = ["What is this? 42 naïve cats, 猫."]
    texts += [f"{token} What is this?" for token in processor.placeholders.values()]
    found = {f"ids.{i}": torch.tensor(processor.tokenizer(text)["input_ids"]) for i, text in enumerate(texts)}
    return found | {f"{m}.tokens": torch.tensor(s["tokens_per_item"]) for m, s in processor.modalities.items()}


def _correction_outputs(folder: Path) -> dict[str, Tensor]:
    from hf_modalbridge import AutoCorrection

    correction = AutoCorrection.from_pretrained(folder)
    rows = torch.randn(_ROWS, correction.dim, generator=torch.Generator().manual_seed(0))
    return {"source": correction(rows), "target": correction.standardize(correction.transform_target(rows))}


def _encoder_outputs(folder: Path) -> dict[str, Tensor]:
    from hf_modalbridge.encoders import encoder_fingerprint, load_encoder, readable_modalities

    model, processor = load_encoder(folder)
    found = dict(model.state_dict())
    for modality in readable_modalities(model):
        probe = encoder_fingerprint(model, processor, modality)["probe"]
        found[f"probe.{modality}"] = torch.tensor(probe)
    return found


def _store_outputs(folder: Path) -> dict[str, Tensor]:
    from hf_modalbridge import EmbeddingStore

    store = EmbeddingStore.open(folder)
    store.verify()
    positions = torch.linspace(0, len(store) - 1, min(len(store), _STORE_ROWS)).long().numpy()
    return {"rows": torch.tensor(len(store)), "embeddings": torch.from_numpy(store[positions])}
