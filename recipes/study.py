"""The rows of the comparison that recipes/reproduce.py makes: what each trains on, one run, how its knobs are chosen.

Every row trains the same connector against the same frozen language model (`Bed`), from the same closed-form start, for
the same number of steps of the same size. What differs is what stands in for a picture while training. A row's input
noise and learning rate are those that give the lowest negative log-likelihood of the validation pictures' captions; the
test pictures are read only after that.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run_files import write_json

from hf_modalbridge.cached_files import file_sha256
from hf_modalbridge.corrections import AutoCorrection, Correction
from hf_modalbridge.corrections.aniso_config import ABLATIONS
from hf_modalbridge.data import BridgeCollator, CaptionDataset
from hf_modalbridge.evaluation import evaluate_captions
from hf_modalbridge.functional.geometry import centroid_gap
from hf_modalbridge.models import ModalBridgeForConditionalGeneration
from hf_modalbridge.store import EmbeddingStore
from hf_modalbridge.training import LoopConfig, train, train_only, warm_start_connector

MAIN_ROWS = ("blind", "none", "mean_shift", "c3", "realign", "aniso_align", "paired")
MORE_ROWS = ("gr", "block_covariance")
ABLATION_ROWS = tuple(f"aniso_{name}" for name in ABLATIONS if name != "all")
NOISES = (0.0, 1.0, 2.0, 3.0)
SEARCH_SEED = 100

# correction and hyper-parameters by row; the rows that are not here use none
_CORRECTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "mean_shift": ("mean_shift", {}),
    "c3": ("c3_shift", {"noise_norm": 0.25}),
    "gr": ("gr", {}),
    "block_covariance": ("block_covariance", {"variant": "centered"}),
    "realign": ("realign", {}),
    "aniso_align": ("aniso_align", {}),
    **{row: ("aniso_align", dict(ABLATIONS[row.removeprefix("aniso_")])) for row in ABLATION_ROWS},
}


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
        references: Held-out pictures over which a caption's probability is averaged to calibrate the choice.
    """

    steps: int = 800
    batch_size: int = 32
    num_tokens: int = 4
    constant_prompt: int = 2
    hidden_size: int = 512
    weight_decay: float = 0.01
    ridge: float = 0.1
    caption_copies: int = 8
    references: int = 128


@dataclass(frozen=True)
class Bed:
    """The language model that the rows train against, and what it can afford.

    Args:
        language_model: Its directory.
        settings: What all rows share.
        learning_rates: To choose from; the last is the one that the input noise is chosen with.
        items: Held-out pictures; None takes all.
    """

    language_model: Path
    settings: Settings
    learning_rates: tuple[float, ...] = (6e-3, 3e-3)
    items: int | None = None


class Study:
    """The runs of a study: each done once, kept as one file.

    Args:
        output: Folder of results and fitted corrections.
        stores: Paths from `demo.prepare_stores(nouns=True)`.
        bed: The language model and what all rows share.
        seeds: Runs a row on the test pictures.
    """

    def __init__(self, output: Path, stores: dict[str, Path], bed: Bed, seeds: int) -> None:
        self.output, self.stores, self.bed, self.seeds = output, stores, bed, seeds
        self.settings = bed.settings
        self.weights = file_sha256(bed.language_model / "model.safetensors")

    def search(self, row: str) -> dict[tuple[float, float], float]:
        """Try every input noise with one learning rate, then the other learning rates with the best noise.

        Args:
            row: Its name.

        Returns:
            Negative log-likelihood of the validation captions by input noise and learning rate.
        """

        def likelihood(noise: float, rate: float) -> float:
            return float(self.result(row, noise, rate, SEARCH_SEED, "validation")["nll"])

        first = self.bed.learning_rates[-1]
        # noise on the blind row's constant would only hide what is to be learned
        tried = {(noise, first): likelihood(noise, first) for noise in (NOISES[:1] if row == "blind" else NOISES)}
        noise, _ = min(tried, key=tried.__getitem__)
        return tried | {(noise, rate): likelihood(noise, rate) for rate in self.bed.learning_rates}

    def row(self, row: str) -> list[dict[str, Any]]:
        """Choose a row's input noise and learning rate on validation; run its seeds on test."""
        tried = self.search(row)
        knobs = min(tried, key=tried.__getitem__)
        return [self.result(row, *knobs, seed, "test") for seed in range(self.seeds)]

    def result(self, row: str, noise: float, learning_rate: float, seed: int, split: str) -> dict[str, Any]:
        """Read a run's numbers, or make the run."""
        name = f"{row}-noise{noise:g}-lr{learning_rate:g}-seed{seed}-{split}.json"
        path = self.output / "results" / name
        if path.exists():
            kept = json.loads(path.read_text())
            if (kept["settings"], kept.get("language_model")) == (asdict(self.settings), self.weights):
                return kept
        numbers = self.run(row, noise, learning_rate, seed, split)
        write_json(path, numbers, indent=1)
        print(
            f"{row:<16} noise {noise:<3g} lr {learning_rate:<6g} seed {seed:<3} {split:<10} nll {numbers['nll']:.3f}  "
            f"choice {numbers['choice']:.3f}  calibrated {numbers['calibrated_choice']:.3f}  "
            f"{numbers['seconds']:.0f} s",
            flush=True,
        )
        return numbers

    def run(self, row: str, noise: float, learning_rate: float, seed: int, split: str) -> dict[str, Any]:
        """Train one connector and measure it on the pictures of a split."""
        settings = self.settings
        model, processor = ModalBridgeForConditionalGeneration.from_components(
            language_model=str(self.bed.language_model),
            tokenizer=str(self.bed.language_model),
            modalities={
                "image": {
                    "correction": self.correction(row, seed),
                    "connector_hidden_size": settings.hidden_size,
                    "num_tokens": settings.num_tokens,
                    "token_mode": "distinct",
                    "constant_prompt": settings.constant_prompt,
                    "input_noise": noise,
                }
            },
            seed=seed,
        )
        # the fused kernel's backward pass takes most of the time of training short rows on a CPU
        model.language_model.set_attn_implementation("eager")
        embeddings, texts, kind = self.training_rows(row)
        dataset = CaptionDataset(embeddings, processor, "image", texts, kind=kind, max_length=40)
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
        images = self.open(f"images-{split}")
        seen = _rows(images)
        if row == "blind":
            seen = np.repeat(self.constant()[None], len(seen), 0)
        items = self.bed.items
        # the likelihood alone chooses the knobs, so the choice may be calibrated roughly there
        references = settings.references if split == "test" else 4
        texts = images.column("text")[:items]
        measured = evaluate_captions(
            model, processor, "image", seen[:items], texts, references=references, marginal="arithmetic"
        )
        return {
            "row": row,
            "noise": noise,
            "learning_rate": learning_rate,
            "seed": seed,
            "split": split,
            "nll": measured["nll_per_token"]["mean"],
            "choice": measured["choice"]["raw"]["mean"],
            "calibrated_choice": measured["choice"]["calibrated"]["mean"],
            "items": measured["items"],
            "train_loss": float(np.mean([r["loss"] for r in result.rows[-50:]])),
            "warm_start_explains": explained,
            "centroid_gap": self.held_out_gap(correction, row, split),
            "seconds": result.seconds,
            "settings": asdict(settings),
            "language_model": self.weights,
        }

    def open(self, name: str) -> EmbeddingStore:
        """Open one of the stores."""
        return EmbeddingStore.open(self.stores[name])

    def correction(self, row: str, seed: int = 0) -> Correction:
        """Fit a row's correction on the train split, captions and pictures each on their own; once a seed."""
        kind, hyper = _CORRECTIONS.get(row, ("none", {}))
        path = self.output / "corrections" / f"{row}-seed{seed}"
        if (path / "config.json").exists():
            return AutoCorrection.from_pretrained(path)
        source, target = self.open("captions-train"), self.open("images-train")
        fitted = AutoCorrection.from_type(kind).fit(source, target, seed=seed, **hyper)
        fitted.save_pretrained(path)
        return fitted

    def training_rows(self, row: str) -> tuple[np.ndarray, list[str], str]:
        """Return the embeddings that a row trains on, their texts, and what kind of embeddings they are."""
        captions, nouns = self.open("captions-train"), self.open("nouns")
        copies = self.settings.caption_copies
        texts = captions.column("text") * copies + nouns.column("text")
        beside = _rows(nouns)
        if row == "paired":
            beside = self.correction("realign")(torch.from_numpy(beside)).numpy()
        own = _rows(self.open("images-train") if row == "paired" else captions)
        rows = np.concatenate([own] * copies + [beside])
        if row == "blind":
            rows = np.repeat(self.constant()[None], len(rows), 0)
        return rows, texts, "embeds" if row in ("blind", "paired") else "imagine_embeds"

    def constant(self) -> np.ndarray:
        """Return what the blind row sees instead of any picture: the mean of the train pictures."""
        return _rows(self.open("images-train")).mean(0)

    def held_out_gap(self, correction: Correction, row: str, split: str) -> float | None:
        """Distance of the means of what was trained on and what is used, on the captions and pictures of a split."""
        if row in ("blind", "paired"):
            return None
        captions, images = (torch.from_numpy(_rows(self.open(f"{side}-{split}"))) for side in ("captions", "images"))
        moved, real = correction(captions), correction.transform_target(images)
        return centroid_gap(moved.double().mean(0), real.double().mean(0))

    def ceilings(self, split: str) -> dict[str, float]:
        """Ten-way choice without a language model, by cosine, with the distractors that the rows get.

        The first is what the dual encoder allows. The others say where it is lost on the way to the language model:
        the picture is mapped, by a ridge map that the train pairs give, to its caption's embedding, or to the mean of
        its caption's token embeddings, which is where a connector starts.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from hf_modalbridge.evaluation import choice_credit, draw_candidates

        model, tokenizer = (
            kind.from_pretrained(self.bed.language_model) for kind in (AutoModelForCausalLM, AutoTokenizer)
        )
        tokens = model.get_input_embeddings().weight.detach().double().numpy()

        def token_means(texts: list[str]) -> np.ndarray:
            return np.stack([tokens[tokenizer(text, add_special_tokens=False)["input_ids"]].mean(0) for text in texts])

        images, captions = self.open(f"images-{split}"), self.open(f"captions-{split}")
        seen, texts = _rows(images)[: self.bed.items], captions.column("text")[: self.bed.items]
        distinct, candidates = draw_candidates(texts, 10, seed=0)
        first = {text: i for i, text in reversed(list(enumerate(texts)))}
        embedded = _rows(captions)[[first[text] for text in distinct]]
        known, train = _rows(self.open("images-train")), self.open("captions-train")
        train_tokens = token_means(train.column("text"))
        spaces = {
            "the dual encoder's own cosine": (seen, embedded),
            "a ridge map to captions, and cosine": _ridge(known, _rows(train), seen, embedded, self.settings.ridge),
            "a ridge map to the captions' mean tokens, and cosine": _ridge(
                known, train_tokens, seen, token_means(distinct), self.settings.ridge
            ),
        }
        return {
            name: float(choice_credit(np.einsum("id,ind->in", _unit(rows), _unit(answers)[candidates])).mean())
            for name, (rows, answers) in spaces.items()
        }


def _ridge(
    known: np.ndarray, answers: np.ndarray, seen: np.ndarray, candidates: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Map what is seen to answers by ridge regression; return it and the candidates, without the answers' mean."""
    centre, mean = known.mean(0), answers.mean(0)
    x = (known - centre).astype(np.float64)
    gram = x.T @ x
    weights = np.linalg.solve(gram + penalty * np.trace(gram) / len(gram) * np.eye(len(gram)), x.T @ (answers - mean))
    return (seen - centre) @ weights, candidates - mean


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _rows(store: EmbeddingStore) -> np.ndarray:
    return np.asarray(store[:], np.float32)
