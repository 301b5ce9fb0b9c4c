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

__all__ = ["bundle_outputs", "item_inputs", "kind_of", "model_inputs", "outputs"]

_ROWS = 4
_STORE_ROWS = 1000


def kind_of(directory: str | os.PathLike[str]) -> str:
    """Tell what a directory holds by its files.

    Args:
        directory: Of something that this library saves.

    Returns:
        "store", "correction", "model" (a bridge), "aligner", "encoder" or "processor".

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
        return {"modalbridge": "model", "modalbridge_pairwise": "aligner"}.get(config["model_type"], "encoder")
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
        by_kind = {"aligner": _aligner_outputs, "encoder": _encoder_outputs, "processor": _processor_outputs}
        return by_kind[kind](folder)


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


def item_inputs(model: Any, processor: Any) -> dict[str, Tensor]:
    """Prepare one fixed raw item for each encoder in a bridge that there is such an item for.

    Args:
        model: The bridge.
        processor: Its processor.

    Returns:
        `NAME.item.KEY` for each input of the encoder, `(1, ...)`.
    """
    from hf_modalbridge.encoders import get_encoder_spec, prepare_items, probe_item

    inputs = {}
    for name, encoder in model.model.encoders.items():
        spec = get_encoder_spec(encoder.config.model_type)
        item = (spec.probe_items if spec else {}).get(name, probe_item(name))
        if item is None or name not in processor.encoder_processors:
            continue
        prepared = prepare_items(processor.encoder_processors[name], name, [item], encoder.config)
        inputs |= {f"{name}.item.{key}": value for key, value in prepared.items() if isinstance(value, Tensor)}
    return inputs


def bundle_outputs(directory: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Compute a bridge's outputs in a process where `hf_modalbridge` cannot be imported, from its bundle.

    Args:
        directory: Of a model with its bundle; its code is run.

    Returns:
        Logits, features of raw items and token ids, as `outputs` gives them.

    Raises:
        ValueError: If that process fails; with the end of what it said.
    """
    from hf_modalbridge import ModalBridgeForConditionalGeneration

    folder, has_processor = Path(directory), (Path(directory) / "processor_config.json").is_file()
    model = ModalBridgeForConditionalGeneration.from_pretrained(folder)
    given = model_inputs(model.config)
    if has_processor:
        processor = _load_processor(folder)
        given |= item_inputs(model, processor)
    texts = _texts(processor) if has_processor else []
    del model
    with tempfile.TemporaryDirectory() as scratch:
        save_file(given, Path(scratch) / "in.safetensors")
        (Path(scratch) / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
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
import json, sys
sys.modules["hf_modalbridge"] = None
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
given, found = load_file(sys.argv[2] + "/in.safetensors"), {}
texts = json.load(open(sys.argv[2] + "/texts.json", encoding="utf-8"))
with torch.inference_mode():
    for name in model.config.modalities:
        items = {name: {"embeds": given[name + ".embeds"]}}
        found[name + ".logits"] = model(given[name + ".input_ids"], modality_inputs=items).logits.float()
        item = {k.split(".item.")[1]: v for k, v in given.items() if k.startswith(name + ".item.")}
        if item:
            found[name + ".features"] = model.get_modality_features(name, **item).float()
if texts:
    processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
    for i, text in enumerate(texts):
        found["ids." + str(i)] = torch.tensor(processor.tokenizer(text)["input_ids"])
save_file({k: v.contiguous() for k, v in found.items()}, sys.argv[2] + "/out.safetensors")
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
    if (folder / "processor_config.json").is_file():
        raw = item_inputs(model, _load_processor(folder))
        for name in model.model.encoders:
            item = {key.split(".item.")[1]: v for key, v in raw.items() if key.startswith(f"{name}.item.")}
            if item:
                found[f"{name}.features"] = model.get_modality_features(name, **item).float()
    return found


def _load_processor(folder: Path) -> Any:
    from hf_modalbridge import ModalBridgeProcessor

    return ModalBridgeProcessor.from_pretrained(folder)


def _texts(processor: Any) -> list[str]:
    questions = [f"{token} What is this?" for token in processor.placeholders.values()]
    return ["What is this? 42 naïve cats, 猫.", *questions]


def _aligner_outputs(folder: Path) -> dict[str, Tensor]:
    from hf_modalbridge import PairwiseAligner

    aligner, found = PairwiseAligner.from_pretrained(folder).eval(), {}
    for name, modality in aligner.config.modalities.items():
        shape = (_ROWS, modality.num_tokens, modality.input_dim)
        features = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        found[f"{name}.embedded"] = aligner.embed(name, features)
        for edge in aligner.config.edges:
            if edge.source == name:
                found[f"{name}-{edge.target}.recomposed"] = aligner.recompose(name, edge.target, features)
    return found


def _processor_outputs(folder: Path) -> dict[str, Tensor]:
    from transformers import AutoProcessor

    from hf_modalbridge import ModalBridgeProcessor

    processor = AutoProcessor.from_pretrained(folder)
    if not isinstance(processor, ModalBridgeProcessor):
        return {}
    found = {f"ids.{i}": torch.tensor(processor.tokenizer(t)["input_ids"]) for i, t in enumerate(_texts(processor))}
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
