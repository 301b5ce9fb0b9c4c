"""The comparison behind the README's table: six ways to train a connector, five seeds each, on held-out real pictures.

    python recipes/reproduce.py --output runs/reproduce --jobs 2

Every row trains the same connector against the same frozen small language model (recipes/train_small_lm.py), from the
same closed-form start, for the same number of steps of the same size, with the learning rate that gave the lowest
negative log-likelihood on the validation pictures. What differs is what stands in for a picture while training:

    blind        the same constant for all (what captions look like, and nothing else)
    none         the caption's text embedding as it is
    mean_shift   the text embedding, shifted onto the mean of the pictures
    c3           mean_shift with Gaussian noise (C3 in the variant that shifts, noise_norm = sigma * sqrt(d))
    realign      ReAlign
    paired       the embedding of the caption's own picture: the upper reference, which needs pairs

All rows but the first read the same text: the captions of the train split, and WordNet's nouns as captions without a
picture. In the paired row the latter come through ReAlign, so that it too has words for what no train picture shows.

The test pictures are read only after the learning rates are chosen. Every run is one file under `results/`; what is
there is not run again, so the command can be stopped at any time. `docs/results/reproduce.md` receives the table.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_modalbridge import demo
from hf_modalbridge.corrections import C3Shift, Correction, MeanShift, NoCorrection, ReAlign
from hf_modalbridge.data import BridgeCollator, CaptionDataset
from hf_modalbridge.evaluation import evaluate_captions
from hf_modalbridge.functional.geometry import centroid_gap
from hf_modalbridge.models import ModalBridgeForConditionalGeneration
from hf_modalbridge.store import EmbeddingStore
from hf_modalbridge.training import LoopConfig, train, train_only, warm_start_connector

ROWS = ("blind", "none", "mean_shift", "c3", "realign", "paired")
LEARNING_RATES = (1e-3, 3e-3)
SEARCH_SEED = 100
# two-sided 97.5 % quantile of Student's t by degrees of freedom
T_QUANTILE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True)
class Settings:
    """What all rows share.

    Args:
        steps: Optimizer steps.
        batch_size: Rows of a step.
        num_tokens: Tokens that a picture becomes.
        constant_prompt: Learned constants before them.
        hidden_size: Width of the connector's hidden layer.
        weight_decay: Of AdamW.
        ridge: Penalty of the closed-form start.
        caption_copies: How often the captions are repeated beside the nouns in the text that rows train on.
        noise_norm: sigma * sqrt(d) of C3.
    """

    steps: int = 400
    batch_size: int = 64
    num_tokens: int = 4
    constant_prompt: int = 2
    hidden_size: int = 512
    weight_decay: float = 0.01
    ridge: float = 0.1
    caption_copies: int = 8
    noise_norm: float = 0.25


def fit(row: str, stores: dict[str, Path], settings: Settings) -> Correction:
    """Fit a row's correction on the train split, captions and pictures each on their own."""
    source, target = (EmbeddingStore.open(stores[f"{side}-train"]) for side in ("captions", "images"))
    if row == "c3":
        return C3Shift.fit(source, target, noise_norm=settings.noise_norm)
    return {"mean_shift": MeanShift, "realign": ReAlign}.get(row, NoCorrection).fit(source, target)


def training_rows(row: str, stores: dict[str, Path], settings: Settings) -> tuple[np.ndarray, list[str], str]:
    """Return the embeddings that a row trains on, their captions, and what kind of embeddings they are."""
    captions, images = (EmbeddingStore.open(stores[f"{side}-train"]) for side in ("captions", "images"))
    nouns = EmbeddingStore.open(stores["nouns"])
    copies = settings.caption_copies
    texts = captions.column("text") * copies + nouns.column("text")
    beside = np.asarray(nouns[:], np.float32)
    if row == "paired":
        beside = fit("realign", stores, settings)(torch.from_numpy(beside)).numpy()
    own = np.asarray((images if row == "paired" else captions)[:], np.float32)
    rows = np.concatenate([own] * copies + [beside])
    if row == "blind":
        rows = np.repeat(constant(stores)[None], len(rows), 0)
    return rows, texts, "embeds" if row in ("blind", "paired") else "imagine_embeds"


def constant(stores: dict[str, Path]) -> np.ndarray:
    """Return what the blind row sees instead of any picture: the mean of the train pictures."""
    return np.asarray(EmbeddingStore.open(stores["images-train"])[:], np.float32).mean(0)


def run(
    row: str, learning_rate: float, seed: int, split: str, stores: dict[str, Path], small_lm: Path, settings: Settings
) -> dict[str, Any]:
    """Train one connector and measure it on the pictures of a split."""
    model, processor = ModalBridgeForConditionalGeneration.from_components(
        language_model=str(small_lm),
        tokenizer=str(small_lm),
        modalities={
            "image": {
                "correction": fit(row, stores, settings),
                "connector_hidden_size": settings.hidden_size,
                "num_tokens": settings.num_tokens,
                "token_mode": "distinct",
                "constant_prompt": settings.constant_prompt,
            }
        },
        seed=seed,
    )
    embeddings, captions, kind = training_rows(row, stores, settings)
    dataset = CaptionDataset(embeddings, processor, "image", captions, kind=kind, max_length=32)
    collate = BridgeCollator(processor)
    connector, correction = model.model.connectors["image"], model.model.corrections["image"]
    train_only(model, [connector])
    explained = warm_start_connector(model, "image", dataset, collate, ridge=settings.ridge)
    loop = LoopConfig(
        learning_rate=learning_rate,
        max_steps=settings.steps,
        per_device_batch_size=settings.batch_size,
        weight_decay=settings.weight_decay,
        mixed_precision="bf16",
        seed=seed,
        progress=False,
    )
    result = train(model, dataset, collate, loop, train_modules=[connector, correction])
    images = EmbeddingStore.open(stores[f"images-{split}"])
    seen = np.asarray(images[:], np.float32)
    if row == "blind":
        seen = np.repeat(constant(stores)[None], len(seen), 0)
    measured = evaluate_captions(model, processor, "image", seen, images.column("text"))
    return {
        "row": row,
        "learning_rate": learning_rate,
        "seed": seed,
        "split": split,
        "nll": measured["nll_per_token"]["mean"],
        "choice": measured["choice"]["raw"]["mean"],
        "calibrated_choice": measured["choice"]["calibrated"]["mean"],
        "items": measured["items"],
        "train_loss": float(np.mean([r["loss"] for r in result.rows[-50:]])),
        "warm_start_explains": explained,
        "centroid_gap": held_out_gap(correction, row, stores, split),
        "seconds": result.seconds,
        "settings": asdict(settings),
    }


def held_out_gap(correction: Correction, row: str, stores: dict[str, Path], split: str) -> float | None:
    """Distance of the means of what was trained on and what is used, on the captions and pictures of a split."""
    if row in ("blind", "paired"):
        return None
    sides = [
        torch.from_numpy(np.asarray(EmbeddingStore.open(stores[f"{s}-{split}"])[:], np.float32))
        for s in ("captions", "images")
    ]
    moved, real = correction(sides[0]), correction.transform_target(sides[1])
    return centroid_gap(moved.double().mean(0), real.double().mean(0))


def ceiling(stores: dict[str, Path], split: str) -> float:
    """Ten-way choice by the dual encoder's own cosine, with the distractors that the rows get."""
    from hf_modalbridge.evaluation import choice_credit, draw_candidates

    images, captions = (EmbeddingStore.open(stores[f"{side}-{split}"]) for side in ("images", "captions"))
    texts = captions.column("text")
    distinct, candidates = draw_candidates(texts, 10, seed=0)
    first = {text: i for i, text in reversed(list(enumerate(texts)))}
    embedded = np.asarray(captions[:], np.float32)[[first[text] for text in distinct]]
    scores = np.einsum("id,ind->in", np.asarray(images[:], np.float32), embedded[candidates])
    return float(choice_credit(scores).mean())


class Study:
    """The runs of a study: each done once, kept as one file."""

    def __init__(self, output: Path, stores: dict[str, Path], small_lm: Path, settings: Settings, seeds: int) -> None:
        self.output, self.stores, self.small_lm, self.settings = output, stores, small_lm, settings
        self.seeds = seeds

    def result(self, row: str, learning_rate: float, seed: int, split: str) -> dict[str, Any]:
        """Read a run's numbers, or make the run."""
        path = self.output / "results" / f"{row}-lr{learning_rate:g}-seed{seed}-{split}.json"
        if path.exists():
            kept = json.loads(path.read_text())
            if kept["settings"] == asdict(self.settings):
                return kept
        numbers = run(row, learning_rate, seed, split, self.stores, self.small_lm, self.settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(numbers, indent=1))
        os.replace(part, path)
        print(
            f"{row:<11} lr {learning_rate:<6g} seed {seed:<3} {split:<10} nll {numbers['nll']:.3f}  choice "
            f"{numbers['choice']:.3f}  calibrated {numbers['calibrated_choice']:.3f}  {numbers['seconds']:.0f} s",
            flush=True,
        )
        return numbers

    def row(self, row: str) -> list[dict[str, Any]]:
        """Choose a row's learning rate on validation, then run its seeds on test."""
        search = [self.result(row, rate, SEARCH_SEED, "validation") for rate in LEARNING_RATES]
        best = min(search, key=lambda numbers: numbers["nll"])["learning_rate"]
        return [self.result(row, best, seed, "test") for seed in range(self.seeds)]


def interval(values: list[float]) -> tuple[float, float]:
    """Return mean and half-width of the 95 % t-interval over seeds."""
    half = T_QUANTILE[len(values) - 1] * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)), half


def table(results: dict[str, list[dict[str, Any]]], ceiling_choice: float) -> str:
    """Write the results as a Markdown table."""
    lines = [
        "| stands in for the picture in training | negative log-likelihood of the true caption, per token | 10-way "
        "choice, raw | 10-way choice, calibrated | centroid gap | learning rate |",
        "|---|---|---|---|---|---|",
    ]
    for row, runs in results.items():
        cells = [
            f"{m:.3f} ± {h:.3f}"
            for m, h in (interval([r[k] for r in runs]) for k in ("nll", "choice", "calibrated_choice"))
        ]
        gap = runs[0]["centroid_gap"]
        cells += ["" if gap is None else f"{gap:.3f}", f"{runs[0]['learning_rate']:g}"]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    lines.append(f"| *the dual encoder's own cosine* | | | {ceiling_choice:.3f} | | |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="rows run side by side, a core each")
    parser.add_argument("--seeds", type=int, default=5, choices=range(2, 11), help="runs a row on the test pictures")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=ROWS)
    parser.add_argument("--table", type=Path, default=Path("docs/results/reproduce.md"))
    arguments = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)

    from train_small_lm import build as build_small_lm

    small_lm = build_small_lm(arguments.output / "small-lm")
    stores = demo.prepare_stores(arguments.output / "stores", nouns=True)
    study = Study(arguments.output, stores, small_lm, Settings(), arguments.seeds)
    jobs = min(arguments.jobs, len(arguments.rows))
    torch.set_num_threads(1)
    with multiprocessing.get_context("spawn").Pool(jobs, torch.set_num_threads, (1,)) as pool:
        runs = pool.map(study.row, arguments.rows, chunksize=1)
    results = dict(zip(arguments.rows, runs, strict=True))
    items = runs[0][0]["items"]
    text = (
        f"# Six ways to train a connector, {arguments.seeds} seeds each\n\n"
        f"Made by `python recipes/reproduce.py --seeds {arguments.seeds}`; the recipe says what the rows are. {items} "
        "held-out pictures; mean ± "
        "half-width of the 95 % t-interval over seeds; chance is 0.100.\n\n"
        f"{table(results, ceiling(stores, 'test'))}\n\nSettings: `{json.dumps(asdict(study.settings))}`.\n"
    )
    print("\n" + text)
    if arguments.rows == list(ROWS):
        arguments.table.parent.mkdir(parents=True, exist_ok=True)
        arguments.table.write_text(text)


if __name__ == "__main__":
    main()
