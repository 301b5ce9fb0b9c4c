"""Compare the pairwise route with what it is made of, on the demo's held-out furniture, over seeds.

    python recipes/evaluate_pairwise.py --seeds 3

Every row trains on the same caption-cloud pairs of `--config`; `ROWS` says what else. The language model is the small
one of recipes/train_small_lm.py (`--small-lm`; made if it is not there), frozen in all rows. Each run is one JSON file
in `OUTPUT/results` and not run again; stopped, the study goes on where it was. The tables are printed, and written to
`docs/results/pairwise.md` when all rows were asked for.

Means are over seeds and test objects; intervals are 95 % bootstrap intervals over both, drawn anew. The adapter takes
as many steps as both stages together. Nothing was chosen on the test split; `--split validation` is there for that.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pairwise_ablations import ABLATIONS, PAPER_ABLATIONS, leave_out
from run_files import read_run, write_json

from hf_modalbridge.evaluation import runs_interval

if TYPE_CHECKING:
    from torch import Tensor

    from hf_modalbridge.training.pairwise_config import PairwiseRecipe

ROWS = {
    "blind": "language model alone: a soft prompt trained on the captions, no cloud",
    "adapter": "2-layer MLP adapter on pooled features, end to end",
    **ABLATIONS,
    "unpaired": "pictures and clouds never paired",
}
PAPER = {"adapter": 53.2, **PAPER_ABLATIONS}
"""ModelNet40 accuracy of the paper's table 1 and ablations (arXiv 2605.21059)."""
HOPS = (("text", "point"), ("point", "text"), ("text", "image"), ("image", "text"))
"""What joins pictures and clouds that were never paired."""
SIZES = {"width": 64, "encoder_layers": 1, "decoder_layers": 1}
"""Of the aligner: half of the configuration's, as the language model is half as wide; masks shrink likewise."""
LEARNING_RATE = 1e-3
"""In both stages and for the adapter."""


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
            "learning_rate": LEARNING_RATE,
            "seed": seed,
            "progress": False,
            "trackers": [],
            "eval_steps": 0,
            "save_steps": 0,
            "mixed_precision": "no",
        }
    for modality in values["modalities"].values():
        modality["encoder"] = None
    share = SIZES["width"] / values["aligner"]["width"]
    values["aligner"] |= SIZES
    for pair in values["pairs"]:
        pair.pop("held_out", None)
        if pair.get("active") is not None:
            pair["active"] = round(share * pair["active"])
        pair["stores"] = {name: str(arguments.stores / store) for name, store in pair["stores"].items()}
    leave_out(values, row)
    if row == "unpaired":
        values["pairs"] = [p for p in values["pairs"] if {p["source"], p["target"]} != {"point", "image"}]

    def held_out(store: str) -> str:
        return str(arguments.stores / store.replace("test", arguments.split))

    values["evaluate"] = [held for held in values["evaluate"] if held["modality"] == "point"]
    for held in values["evaluate"]:
        held["store"] = held_out(held["store"])
    for triples in values["triples"]:
        triples["stores"] = {name: held_out(store) for name, store in triples["stores"].items()}
    return values


def run_pairwise_row(row: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and measure a row of the route itself; `no_stage2` takes the aligner of `full`."""
    from transformers import AutoModel, AutoProcessor

    from hf_modalbridge.models.pairwise_aligner import PairwiseAligner
    from hf_modalbridge.store import EmbeddingStore
    from hf_modalbridge.training import build_config
    from hf_modalbridge.training.pairwise import run_stage_one, run_stage_two
    from hf_modalbridge.training.pairwise_config import PairwiseRecipe
    from hf_modalbridge.training.pairwise_evaluation import evaluate_aligner, evaluate_bridge

    def made(name: str) -> tuple[Path, PairwiseRecipe]:
        folder = arguments.output / "work" / f"{name}-seed{seed}"
        return folder, build_config(PairwiseRecipe, recipe_values(name, seed, folder, arguments))

    first = run_stage_one(made("full" if row == "no_stage2" else row)[1])
    folder, recipe = made(row)
    result: dict[str, Any] = {}
    if row != "unpaired":
        model_dir = run_stage_two(recipe, first).model_dir
        model, processor = AutoModel.from_pretrained(model_dir), AutoProcessor.from_pretrained(model_dir)
        result["point"] = evaluate_bridge(model, processor, recipe.evaluate[0], None, per_item=True)
        shutil.rmtree(folder / "stage2")
    aligner = PairwiseAligner.from_pretrained(first.model_dir)
    unit = [name for name, m in recipe.modalities.items() if m.normalize]
    own = EmbeddingStore.open(recipe.triples[0].stores["point"]).column("text")
    (pairs,) = [p for p in recipe.pairs if {p.source, p.target} == {"point", "text"}]
    known = EmbeddingStore.open(pairs.stores["point"]).column(pairs.text_column)
    tokens = caption_tokens(recipe, arguments.small_lm, [*own, *sorted(set(known))])
    captions, between = tokens[: len(own)], tokens[len(own) :]
    result["triples"] = evaluate_aligner(
        aligner, recipe.triples[0], unit, per_item=True, captions=captions, anchors=("text", between)
    )
    if row not in ("full", "no_stage2"):
        shutil.rmtree(folder)
    return result


def caption_tokens(recipe: PairwiseRecipe, small_lm: Path, captions: list[str]) -> Tensor:
    """Give captions as the aligner reads them, `(captions, tokens, dim)`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from hf_modalbridge.data.pairs import TextFeatures

    table = AutoModelForCausalLM.from_pretrained(small_lm).get_input_embeddings().weight
    features = TextFeatures(captions, AutoTokenizer.from_pretrained(small_lm), table, recipe.text.num_tokens)
    return features[np.arange(len(features))][0]


def run_adapter(row: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and measure a 2-layer MLP on pooled features, on the same caption-cloud pairs, end to end."""
    from hf_modalbridge.data import BridgeCollator, CaptionDataset
    from hf_modalbridge.models import ModalBridgeForConditionalGeneration
    from hf_modalbridge.store import EmbeddingStore
    from hf_modalbridge.training import LoopConfig, build_config, train, train_only
    from hf_modalbridge.training.pairwise_config import PairwiseRecipe
    from hf_modalbridge.training.pairwise_evaluation import evaluate_bridge

    recipe = build_config(PairwiseRecipe, recipe_values("full", seed, arguments.output, arguments))
    tokens, held = recipe.modalities["point"].num_tokens, recipe.evaluate[0]
    (pairs,) = [p for p in recipe.pairs if {p.source, p.target} == {"point", "text"}]

    def pooled(path: str) -> tuple[EmbeddingStore, np.ndarray]:
        store = EmbeddingStore.open(path)
        rows = np.asarray(store[:], np.float32).reshape(len(store), tokens, -1)
        if tokens > 1:  # without the class token
            rows = np.concatenate([rows[:, 1:].mean(1), rows[:, 1:].max(1)], 1)
        return store, rows.reshape(len(store), -1)

    store, features = pooled(pairs.stores["point"])
    _, held_features = pooled(held.store)
    mean, std = features.mean(0), features.std(0) + 1e-6
    features, held_features = (features - mean) / std, (held_features - mean) / std
    if row == "blind":
        features, held_features = np.ones_like(features), np.ones_like(held_features)
    parts = {
        "embedding_dim": features.shape[1],
        "normalize": False,
        "num_tokens": recipe.text.num_tokens,
        "token_mode": "distinct",
    }
    model, processor = ModalBridgeForConditionalGeneration.from_components(
        language_model=str(arguments.small_lm),
        tokenizer=str(arguments.small_lm),
        modalities={"point": parts},
        seed=seed,
    )
    connector = model.model.connectors["point"]
    train_only(model, [connector])
    captions = store.column(pairs.text_column)
    dataset = CaptionDataset(features, processor, "point", captions, kind="embeds", max_length=48)
    loop = LoopConfig(
        learning_rate=LEARNING_RATE,
        max_steps=arguments.adapter_steps,
        per_device_batch_size=32,
        weight_decay=0.05,
        seed=seed,
        progress=False,
    )
    train(model, dataset, BridgeCollator(processor), loop, train_modules=[connector])
    return {"point": evaluate_bridge(model, processor, held, None, per_item=True, features=held_features)}


def result_of(row: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return a run's numbers, from its file if it was done before."""
    path = arguments.output / "results" / f"{row}-seed{seed}.json"
    steps = [arguments.stage1_steps, arguments.stage2_steps, arguments.adapter_steps, arguments.split]
    if (kept := read_run(path, steps)) is not None:
        return kept
    began = time.perf_counter()
    run = run_adapter if row in ("blind", "adapter") else run_pairwise_row
    measured = run(row, seed, arguments) | {"row": row, "seed": seed, "settings": steps}
    measured["seconds"] = round(time.perf_counter() - began, 1)
    write_json(path, measured)
    print(f"{row} seed {seed}, {measured['seconds']:.0f} s: {' '.join(cells([measured]))}", flush=True)
    return measured


def said(values: list[list[float]]) -> str:
    """Write the mean over seeds and items with its interval."""
    mean, low, high = runs_interval(values, same_items=True)
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def cells(results: list[dict[str, Any]]) -> list[str]:
    """Make a row's cells of the first table; empty if no language model was read."""
    points = [r["point"] for r in results if "point" in r]
    if not points:
        return []
    labels, captions = ([p["labels"]["per_item"] for p in points], [p["per_item"] for p in points])
    return [
        *(said([p[key] for p in labels]) for key in ("calibrated", "raw")),
        *(said([p[key] for p in captions]) for key in ("calibrated", "raw", "nll_per_token")),
    ]


def choice_table(table: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Write the rows that end in words."""
    facts = next(r[0]["point"] for r in table.values() if "point" in r[0])
    ways, names = facts["labels"]["ways"], facts["choice"]["n"]
    lines = [
        f"| row | category, {ways}-way, calibrated | raw | name, {names}-way, calibrated | raw | caption nll, nats a "
        "token | paper |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, results in table.items():
        if found := cells(results):
            paper = f"{PAPER[row]:.1f}" if row in PAPER else ""
            lines.append(f"| {ROWS[row]} | {' | '.join(found)} | {paper} |")
    chance = facts["labels"]["chance"], facts["labels"]["most_frequent"], facts["choice"]["chance"]
    lines.append(f"| *chance (commonest category)* | {chance[0]:.3f} ({chance[1]:.3f}) | | {chance[2]:.3f} | | | |")
    return lines


def retrieval_table(table: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Write how well items find their like in other modalities, paired in training or not."""
    lines = ["| training | likeness | direction | R@1 | R@5 | R@10 | median rank |", "|---|---|---|---|---|---|---|"]
    ways, across = {"retrieval": "to each other", "anchored": "to captions"}, ("image-point", "point-image")
    paired, unpaired = "pictures and clouds paired", "pictures and clouds never paired"
    rows = [
        *(("full", paired, way, pair) for way, pair in itertools.product(ways, across)),
        *(("unpaired", unpaired, way, pair) for way, pair in itertools.product(ways, across)),
        *(("unpaired", f"{unpaired}; these are", "retrieval", f"{a}-{b}") for a, b in HOPS),
    ]
    means, items = {}, 0
    for row, training, way, pair in rows:
        ranks = np.array([r["triples"][pair][way]["ranks"] for r in table[row]])
        items = ranks.shape[1]
        shares = [said((ranks < k).astype(float).tolist()) for k in (1, 5, 10)]
        means[row, way, pair] = (ranks < 10).mean()
        direction = pair.replace("-", " to ").replace("text", "caption")
        lines.append(f"| {training} | {ways[way]} | {direction} | {' | '.join(shares)} | {np.median(ranks) + 1:.0f} |")
    lines.append(f"| *chance* | | | {1 / items:.3f} | {5 / items:.3f} | {10 / items:.3f} | {(items + 1) / 2:.0f} |")
    hops = np.mean([means["unpaired", "retrieval", f"{a}-{b}"] for a, b in HOPS])
    shares = "; ".join(
        f"{ways[way]}, {pair.replace('-', ' to ')}: {found / means['full', 'retrieval', pair]:.0%} of what these pairs "
        f"give, {found / hops:.0%} of what captions give with either"
        for way, pair in itertools.product(ways, across)
        for found in [means["unpaired", way, pair]]
    )
    return [*lines, "", f"R@10 of pictures and clouds that were never paired: {shares}."]


def main() -> None:
    """Read the command line, run what is missing, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=Path(__file__).parent / "configs" / "modalbridge_pc.yaml", type=Path)
    parser.add_argument("--stores", type=Path, default=Path("runs/modalbridge-pc/stores"))
    parser.add_argument("--small-lm", type=Path, default=Path("runs/reproduce/small-lm"))
    parser.add_argument("--output", type=Path, default=Path("runs/pairwise-study"))
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stage1-steps", type=int, default=400)
    parser.add_argument("--stage2-steps", type=int, default=600)
    parser.add_argument("--adapter-steps", type=int, default=1000)
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--docs", type=Path, default=Path("docs/results"), help="folder that receives the tables")
    arguments = parser.parse_args()
    if not (arguments.stores / "points-test" / "manifest.json").is_file():
        from hf_modalbridge.demo.pairwise_stores import prepare_pairwise_stores

        prepare_pairwise_stores(arguments.stores)
    if not (arguments.small_lm / "config.json").is_file():
        from train_small_lm import build

        build(arguments.small_lm)
    table: dict[str, list[dict[str, Any]]] = {row: [] for row in arguments.rows}
    for seed in range(arguments.seeds):  # all rows of a seed first: a study that was stopped is a smaller study
        for row, results in table.items():
            results.append(result_of(row, seed, arguments))
    parts = [choice_table(table)] if set(table) - {"unpaired"} else []
    if {"full", "unpaired"} <= set(table):
        parts.append(retrieval_table(table))
    text = "\n\n".join("\n".join(part) for part in parts)
    print(f"\n{text}")
    if set(arguments.rows) == set(ROWS) and arguments.split == "test":
        write(arguments, table, parts)


def write(arguments: argparse.Namespace, table: dict[str, list[dict[str, Any]]], parts: list[list[str]]) -> None:
    """Write the tables as a page."""
    items = len(table["full"][0]["point"]["per_item"]["nll_per_token"])
    command = f"python recipes/evaluate_pairwise.py --seeds {arguments.seeds}"
    minutes = sum(r["seconds"] for results in table.values() for r in results) / 60
    choice, retrieval = ("\n".join(part) for part in parts)
    text = (
        f"# Clouds read by a language model that was trained on pairs, {arguments.seeds} seeds a row\n\n"
        f"Made by `{command}` ({minutes:.0f} minutes by the clock in all); the recipe says what the rows are. {items} "
        "held-out objects of the test split; mean over seeds and objects (95 % bootstrap interval over both). Last "
        "column: the paper's ModelNet40 accuracy (arXiv 2605.21059), for the pattern. Steps: "
        f"{arguments.stage1_steps} in stage I, {arguments.stage2_steps} in stage II, {arguments.adapter_steps} for the "
        f"adapter and the soft prompt.\n\n{choice}\n\n"
        "## Pictures and clouds that were never paired\n\nRetrieval in the shared code among the same objects. `never "
        "paired` trains without the picture-cloud pairs: both are joined by captions alone. Pictures and clouds are "
        "compared to each other, or by how alike they are to the captions of the caption-cloud pairs, each side less "
        f"its own mean (`anchors` of `cross_modal_retrieval`).\n\n{retrieval}\n"
    )
    arguments.docs.mkdir(parents=True, exist_ok=True)
    (arguments.docs / "pairwise.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
