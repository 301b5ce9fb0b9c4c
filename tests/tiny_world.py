"""A world for tests: a random language model, two sides of an embedding space, captions and chats."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_modalbridge.corrections import C3, ReAlign
from hf_modalbridge.store import EmbeddingStore, EmbeddingStoreWriter

DIM = 12
COLOURS = ["red", "green", "blue", "black", "white", "yellow"]
THINGS = ["chair", "table", "lamp", "tree", "boat", "clock", "apple", "house"]
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@dataclass
class TinyWorld:
    """Directories and files of the world."""

    root: Path
    language_model: Path
    text_store: Path
    image_store: Path
    realign: Path
    c3: Path
    chats: Path
    captions: list[str]


def build_tokenizer() -> PreTrainedTokenizerFast:
    texts = [f"a {c} {t} on the floor." for c in COLOURS for t in THINGS] + ["What is this? user assistant"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<|end|>", "<|start|>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<pad>")
    fast.chat_template = TEMPLATE
    return fast


def build_language_model(vocab_size: int, hidden_size: int = 24) -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=hidden_size,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=256,
                tie_word_embeddings=True,
            )
        ).eval()


def build_world(root: Path, rows: int = 96) -> TinyWorld:
    rng = np.random.default_rng(0)
    tokenizer = build_tokenizer()
    build_language_model(len(tokenizer)).save_pretrained(root / "lm")
    tokenizer.save_pretrained(root / "lm")
    names = [(COLOURS[i % 6], THINGS[i % 8]) for i in range(rows)]
    # captions of uneven length, so that padding and token counts matter
    captions = [f"a {c} {t}" + (" on the floor." if i % 3 == 0 else ".") for i, (c, t) in enumerate(names)]
    concept = {w: rng.normal(size=DIM) for w in COLOURS + THINGS}
    gap = rng.normal(size=DIM)
    content = np.stack([concept[c] + concept[t] for c, t in names])
    text = unit(content + gap + 0.1 * rng.normal(size=content.shape))
    image = unit(content - gap + 0.3 * rng.normal(size=content.shape))
    ids = [f"row{i:03d}" for i in range(rows)]
    for name, values in (("text", text), ("image", image)):
        with EmbeddingStoreWriter(root / name, dim=DIM, dtype="float32", rows_per_shard=40) as writer:
            writer.append(ids, values.astype(np.float32), {"text": captions})
    source, target = EmbeddingStore.open(root / "text"), EmbeddingStore.open(root / "image")
    ReAlign.fit(source, target).save_pretrained(root / "realign")
    C3.fit(source, target, noise_norm=0.3).save_pretrained(root / "c3")
    chats = [
        {
            "id": ids[i],
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
                {"role": "assistant", "content": captions[i]},
            ],
        }
        for i in range(rows)
    ]
    (root / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    return TinyWorld(
        root,
        root / "lm",
        root / "text",
        root / "image",
        root / "realign",
        root / "c3",
        root / "chats.jsonl",
        captions,
    )


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def recipe(world: TinyWorld, output: Path, **stages: dict) -> dict:
    """A recipe as a YAML file holds it; `stages` are merged into stage1 and stage2."""
    loop = {
        "learning_rate": 0.01,
        "per_device_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 6,
        "save_steps": 2,
        "eval_steps": 3,
        "progress": False,
    }
    values: dict = {
        "output_dir": str(output),
        "language_model": {"id": str(world.language_model)},
        "bridge": {
            "modality": "image",
            "correction": str(world.realign),
            "num_tokens": 2,
            "constant_prompt": 1,
            "placeholder_token": "<image>",
        },
        "stage1": {"store": str(world.text_store), "held_out_rows": 8, "loop": dict(loop)},
        "stage2": {
            "chats": str(world.chats),
            "stores": {"image": str(world.image_store)},
            "held_out_rows": 8,
            "lora": {"r": 2, "alpha": 4, "dropout": 0.1},
            "loop": dict(loop),
        },
    }
    for stage, changes in stages.items():
        if changes is None:
            values[stage] = None
            continue
        loop_changes = changes.pop("loop", {})
        values[stage].update(changes)
        if loop_changes:
            values[stage]["loop"].update(loop_changes)
    return values
