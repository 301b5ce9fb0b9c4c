"""Write tests/formats/vN: one tiny example of everything that this version saves, with what it gave when it was saved.

    python scripts/write_format_examples.py v1

Examples are written once, when a format is released, and never again: later versions must go on loading them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_modalbridge import (
    AutoCorrection,
    EmbeddingStoreWriter,
    MeanShift,
    ModalBridgeForConditionalGeneration,
    NoCorrection,
    ReAlign,
)
from hf_modalbridge.hub.outputs import outputs

DIM = 6
WORDS = ["<pad>", "<unk>", "<end>", "what", "is", "this", "?", "a", "red", "chair"]
FORMATS = Path(__file__).parents[1] / "tests" / "formats"


def rows(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


def write_corrections(folder: Path) -> None:
    """Write every kind of correction that can be fitted without training, in order of the registry."""
    source, target = rows(60, 0) + 0.8, rows(60, 1) - 0.6
    kinds = {kind.__name__: kind for kind in AutoCorrection.types().values()}
    for name in ("NoCorrection", "MeanShift", "C3", "C3Shift", "RoleMeans", "ReAlign", "Procrustes"):
        kinds[name].fit(source, target).save_pretrained(folder / name.lower())


def write_store(folder: Path) -> None:
    with EmbeddingStoreWriter(folder / "store", dim=DIM, dtype="float16", rows_per_shard=4) as writer:
        writer.append(
            [f"row{i}" for i in range(6)],
            torch.nn.functional.normalize(rows(6, 2)).numpy().astype(np.float16),
            {"text": list("abcdef")},
        )


def write_models(folder: Path) -> None:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    )
    torch.manual_seed(0)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    language_model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=32, **size)).eval()
    language_model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    source, target = rows(60, 0) + 0.8, rows(60, 1) - 0.6
    variants = {
        "plain": {"image": {"embedding_dim": DIM}},
        "realign": {
            "image": {"correction": ReAlign.fit(source, target), "num_tokens": 2, "constant_prompt": 1},
            "touch": {"correction": MeanShift.fit(source, target), "token_mode": "distinct", "num_tokens": 2},
        },
        "bridge_only": {"image": {"correction": NoCorrection.fit(source, target), "num_tokens": 1}},
    }
    for name, modalities in variants.items():
        base = LlamaForCausalLM.from_pretrained(folder / "base")
        model, processor = ModalBridgeForConditionalGeneration.from_components(
            language_model=base,
            tokenizer=PreTrainedTokenizerFast.from_pretrained(folder / "base"),
            modalities=modalities,
            language_model_source={"id": "base"},  # a folder beside it
        )
        model.save_pretrained(folder / f"model-{name}", bridge_only=name == "bridge_only")
        processor.save_pretrained(folder / f"model-{name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version")
    folder = FORMATS / parser.parse_args().version
    if folder.exists():
        parser.error(f"{folder} exists; released examples are not written again")
    write_corrections(folder / "corrections")
    write_store(folder)
    write_models(folder)
    with contextlib.chdir(folder):
        for example in sorted(path.parent for path in folder.rglob("*.json") if is_example(path)):
            save_file(outputs(example), folder / f"expected-{example.name}.safetensors")
    (folder / "README.md").write_text("Written by scripts/write_format_examples.py; tests load it and compare.\n")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e3:.0f} kB")


def is_example(path: Path) -> bool:
    """Tell whether a file is the config of an example; the base model is not one."""
    if path.name == "manifest.json":
        return True
    if path.name != "config.json" or path.parent.name == "base":
        return False
    return bool({"correction_type", "modalities"} & json.loads(path.read_text()).keys())


if __name__ == "__main__":
    main()
