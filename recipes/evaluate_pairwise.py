"""Compare the pairwise route with what it is made of, on the demo's held-out furniture, over seeds.

    python recipes/evaluate_pairwise.py --small-lm runs/small-lm --output runs/pairwise-study --seeds 3

Every row trains on the same caption-cloud pairs; `ROWS` says what else. The language model is the small one of
recipes/train_small_lm.py (`--small-lm`; made if it is not there), frozen in all rows. Each run is kept as one JSON file
and not run again; the table is printed at the end and written to `OUTPUT/table.json`. Learning rates and steps are the
same for all rows and were not tuned on the test split.

Rows: `blind` (the language model with the mean cloud, trained as the adapter), `adapter` (2-layer MLP on pooled
features, end to end), `full`, `no_stage1`, `no_stage2`, `no_reconstruction`, `no_contrast`, `full_masks`. Retrieval
between pictures and clouds is measured on the aligners of `full` (the two paired) and `unpaired` (never paired).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

ROWS = (
    "blind",
    "adapter",
    "full",
    "no_stage1",
    "no_stage2",
    "no_reconstruction",
    "no_contrast",
    "full_masks",
    "unpaired",
)


def recipe_values(row: str, seed: int, output: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the recipe of a row.

    Args:
        row: One of `ROWS` other than `blind` and `adapter`.
        seed: Of weights, order and dropout.
        output: Where it writes.
        arguments: The command line.

    Returns:
        Values of a `PairwiseRecipe`.
    """
    import yaml

    values = yaml.safe_load(Path(arguments.config).read_text(encoding="utf-8"))
    values = copy.deepcopy(values) | {"output_dir": str(output)}
    values["language_model"] = {"id": str(arguments.small_lm), "dtype": "float32", "attn_implementation": "eager"}
    values["demo_stores"] = None
    values["stage2"]["questions"] = []
    for stage, steps in (("stage1", arguments.stage1_steps), ("stage2", arguments.stage2_steps)):
        values[stage]["loop"] |= {
            "max_steps": steps,
            "seed": seed,
            "progress": False,
            "trackers": [],
            "eval_steps": 0,
            "save_steps": 0,
            "mixed_precision": "no",
        }
    for modality in values["modalities"].values():
        modality["encoder"] = None
    for pair in values["pairs"]:
        pair.pop("held_out", None)
        pair["stores"] = {name: str(arguments.stores / store) for name, store in pair["stores"].items()}
        if row == "no_contrast":
            pair["contrast"] = 0.0
        if row == "no_reconstruction":  # the codes are compared only; decoders stay as they start until stage II
            pair["cross"] = pair["backward"] = 0.0
        if row == "full_masks":
            pair["active"] = None
    if row == "no_reconstruction":
        for modality in (values["text"], *values["modalities"].values()):
            modality["reconstruction"] = 0.0
    if row == "unpaired":
        values["pairs"] = [p for p in values["pairs"] if {p["source"], p["target"]} != {"point", "image"}]
    values["stage1"]["skip"], values["stage2"]["skip"] = row == "no_stage1", row in ("no_stage2", "unpaired")
    for key in ("evaluate", "triples"):
        for held in values[key]:
            if "store" in held:
                held["store"] = str(arguments.stores / held["store"])
            else:
                held["stores"] = {name: str(arguments.stores / store) for name, store in held["stores"].items()}
    values["evaluate"] = [held for held in values["evaluate"] if held["modality"] == "point"]
    return values


def run_pairwise_row(row: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and measure a row of the route itself."""
    from train_pairwise import measure

    from hf_modalbridge.training import build_config
    from hf_modalbridge.training.pairwise import run_pairwise
    from hf_modalbridge.training.pairwise_config import PairwiseRecipe

    folder = arguments.output / "work" / f"{row}-seed{seed}"
    recipe = build_config(PairwiseRecipe, recipe_values(row, seed, folder, arguments))
    results = run_pairwise(recipe)
    measured = measure(recipe, results["stage1"].model_dir, results["stage2"].model_dir)
    shutil.rmtree(folder)
    return measured


def run_adapter(row: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and measure a 2-layer MLP on pooled features, on the same caption-cloud pairs, end to end."""
    from hf_modalbridge.data import BridgeCollator, CaptionDataset
    from hf_modalbridge.evaluation import evaluate_captions
    from hf_modalbridge.evaluation.label_choice import label_choice
    from hf_modalbridge.models import ModalBridgeForConditionalGeneration
    from hf_modalbridge.store import EmbeddingStore
    from hf_modalbridge.training import LoopConfig, train, train_only

    def pooled(name: str) -> tuple[Any, np.ndarray]:
        store = EmbeddingStore.open(arguments.stores / name)
        groups = np.asarray(store[:], np.float32).reshape(len(store), 65, -1)[:, 1:]
        return store, np.concatenate([groups.mean(1), groups.max(1)], 1)

    store, features = pooled("text-point-points")
    mean, std = features.mean(0), features.std(0) + 1e-6
    held, held_features = pooled("points-test")
    features, held_features = (features - mean) / std, (held_features - mean) / std
    if row == "blind":
        features, held_features = np.ones_like(features), np.ones_like(held_features)
    parts = {"embedding_dim": features.shape[1], "normalize": False, "num_tokens": 8, "token_mode": "distinct"}
    model, processor = ModalBridgeForConditionalGeneration.from_components(
        language_model=str(arguments.small_lm),
        tokenizer=str(arguments.small_lm),
        modalities={"point": parts},
        seed=seed,
    )
    connector = model.model.connectors["point"]
    train_only(model, [connector])
    dataset = CaptionDataset(features, processor, "point", store.column("text"), kind="embeds", max_length=48)
    loop = LoopConfig(
        learning_rate=1e-3,
        max_steps=arguments.stage2_steps,
        per_device_batch_size=32,
        weight_decay=0.05,
        seed=seed,
        progress=False,
    )
    train(model, dataset, BridgeCollator(processor), loop, train_modules=[connector])
    result = evaluate_captions(model, processor, "point", held_features, held.column("text"), n=20)
    labels = [label.lower() for label in held.column("category")]
    answers = sorted(set(labels))
    result["labels"] = label_choice(model, processor, "point", held_features, labels, answers)
    return {"items": {"point": result}, "triples": []}


def result_of(row: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return a run's numbers, from its file if it was done before."""
    path = arguments.output / "results" / f"{row}-seed{seed}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    began = time.perf_counter()
    run = run_adapter if row in ("blind", "adapter") else run_pairwise_row
    measured = run(row, seed, arguments) | {"row": row, "seed": seed}
    measured["seconds"] = round(time.perf_counter() - began, 1)
    measured["steps"] = [arguments.stage1_steps, arguments.stage2_steps]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(measured, indent=1), encoding="utf-8")
    os.replace(part, path)
    print(line(row, [measured]), flush=True)
    return measured


def line(row: str, results: list[dict[str, Any]]) -> str:
    """Say a row's means over seeds, with the standard deviation where there are several."""

    def said(values: list[float]) -> str:
        spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
        return f"{np.mean(values):.3f}{spread}"

    points = [r["items"]["point"] for r in results]
    cells = [
        f"{row:<18}",
        f"category {said([p['labels']['calibrated']['mean'] for p in points])}",
        f"name {said([p['choice']['calibrated']['mean'] for p in points])}",
        f"nll {said([p['nll_per_token']['mean'] for p in points])}",
    ]
    across = [r["triples"][0]["image-point"]["retrieval"]["R@10"]["mean"] for r in results if r["triples"]]
    return "  ".join(cells + ([f"image-to-cloud R@10 {said(across)}"] if across else []))


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=Path(__file__).parent / "configs" / "modalbridge_pc.yaml", type=Path)
    parser.add_argument("--stores", type=Path, default=Path("runs/modalbridge-pc/stores"))
    parser.add_argument("--small-lm", type=Path, default=Path("runs/small-lm"))
    parser.add_argument("--output", type=Path, default=Path("runs/pairwise-study"))
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=ROWS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stage1-steps", type=int, default=800)
    parser.add_argument("--stage2-steps", type=int, default=300)
    arguments = parser.parse_args()
    if not (arguments.stores / "points-test" / "manifest.json").is_file():
        from hf_modalbridge.demo.pairwise_stores import prepare_pairwise_stores

        prepare_pairwise_stores(arguments.stores)
    if not (arguments.small_lm / "config.json").is_file():
        from train_small_lm import build

        build(arguments.small_lm)
    table = {row: [result_of(row, seed, arguments) for seed in range(arguments.seeds)] for row in arguments.rows}
    (arguments.output / "table.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    print()
    for row, results in table.items():
        print(line(row, results))


if __name__ == "__main__":
    main()
