"""A world of three modalities that share concepts: a tiny language model, stores of pairs, and a recipe for them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tiny_world import COLOURS, THINGS, build_language_model, build_tokenizer

from hf_modalbridge.store import EmbeddingStoreWriter

SHAPES = {"point": (5, 6), "image": (1, 7)}


@dataclass
class PairwiseWorld:
    """Directories of the world."""

    root: Path
    language_model: Path
    stores: dict[str, Path]
    captions: dict[str, list[str]]


def build_pairwise_world(root: Path, rows: int = 48) -> PairwiseWorld:
    rng = np.random.default_rng(0)
    tokenizer = build_tokenizer()
    build_language_model(len(tokenizer)).save_pretrained(root / "lm")
    tokenizer.save_pretrained(root / "lm")
    concept = {w: rng.normal(size=8) for w in COLOURS + THINGS}
    maps = {name: rng.normal(size=(8, t * d)) for name, (t, d) in SHAPES.items()}
    stores, captions = {}, {}
    for place, part in enumerate(("point-text", "image-text", "point-image", "held")):
        names = [(COLOURS[(i + place) % 6], THINGS[(i * 3 + place) % 8]) for i in range(rows)]
        content = np.stack([concept[c] + concept[t] for c, t in names])
        captions[part] = [f"a {c} {t}" + (" on the floor." if i % 3 == 0 else ".") for i, (c, t) in enumerate(names)]
        for name in SHAPES:
            if part != "held" and name not in part:
                continue
            values = 3 * content @ maps[name] + 0.1 * rng.normal(size=(rows, maps[name].shape[1])) + 5
            path = root / f"{part}-{name}"
            # "item" has each object twice, as augmented copies of one cloud do
            with EmbeddingStoreWriter(path, dim=values.shape[1], dtype="float32", normalized=False) as writer:
                ids = [f"{part}{i:03d}" for i in range(rows)]
                columns = {"text": captions[part], "item": ids, "thing": [t for _, t in names]}
                writer.append(ids, values.astype(np.float32), columns)
            stores[f"{part}-{name}"] = path
    return PairwiseWorld(root, root / "lm", stores, captions)


def pairwise_recipe(world: PairwiseWorld, output: Path, **changes: dict) -> dict:
    """A recipe as a YAML file holds it; `changes` are merged into its sections."""
    loop = {
        "learning_rate": 0.003,
        "per_device_batch_size": 8,
        "max_steps": 6,
        "save_steps": 2,
        "eval_steps": 3,
        "progress": False,
    }
    stores = {name: str(path) for name, path in world.stores.items()}
    values: dict = {
        "output_dir": str(output),
        "language_model": {"id": str(world.language_model)},
        "text": {"num_tokens": 6},
        "modalities": {"point": {"num_tokens": 5}, "image": {"num_tokens": 1}},
        "pairs": [
            {
                "source": "point",
                "target": "text",
                "active": 12,
                "stores": {"point": stores["point-text-point"]},
                "held_out": {"point": stores["held-point"]},
            },
            {
                "source": "image",
                "target": "text",
                "active": 12,
                "stores": {"image": stores["image-text-image"]},
            },
            {
                "source": "point",
                "target": "image",
                "pair_column": "item",
                "stores": {"point": stores["point-image-point"], "image": stores["point-image-image"]},
            },
        ],
        "aligner": {
            "width": 16,
            "num_latents": 3,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "heads": 2,
            "ff_mult": 2,
            "dropout": 0.1,
        },
        "stage1": {"loop": dict(loop)},
        "stage2": {"loop": dict(loop)},
    }
    for key, change in changes.items():
        if isinstance(change, dict):
            loop_changes = change.pop("loop", {})
            values.setdefault(key, {}).update(copy.deepcopy(change))
            if loop_changes:
                values[key]["loop"].update(loop_changes)
        else:
            values[key] = change
    return values


def one_thread_each():
    """Keep torch to one thread, so that two runs add in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
