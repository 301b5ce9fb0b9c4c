"""The main job on real pictures: a language model that has never seen an image learns to read image embeddings.

    python recipes/demo.py --output runs/demo

1. embeds the demo's pictures and captions with its dual encoder (a frozen EfficientNet-Lite0 and MiniLM under trained
   heads, as far apart as CLIP's towers are);
2. fits ReAlign on unpaired embeddings;
3. trains stage 1 on captions alone, three times with the same budget: blind, without correction, with ReAlign;
4. measures the three on held-out real pictures;
5. tunes the third on chats about real pictures (stage 2), and writes a model directory;
6. loads that directory by `AutoModel.from_pretrained` and asks about three pictures it has never seen.

Every step that is complete is not done again. The budget is one of minutes, so the choices are hardly better than
chance; `make reproduce` is the measurement, with five seeds and intervals.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, AutoProcessor
from transformers.utils import logging as transformers_logging

from hf_modalbridge import AutoCorrection, EmbeddingStore, EmbeddingStoreWriter, NoCorrection, ReAlign, demo
from hf_modalbridge.evaluation import evaluate_captions
from hf_modalbridge.functional.geometry import centroid_gap
from hf_modalbridge.training import RevisionConfig, load_config, run_stage1, run_stage2

QUESTION = "What is in this picture? Answer in a few words."
ROWS = {"blind": "blind", "none": "no correction", "realign": "ReAlign"}
console = Console(width=120)


def write_constant_stores(stores: dict[str, Path], output: Path) -> dict[str, Path]:
    """Write what the blind row sees: for every caption and picture the same embedding, the mean of the pictures."""
    images = EmbeddingStore.open(stores["images-train"])
    mean = np.asarray(images[:], np.float32).mean(0)
    mean /= np.linalg.norm(mean)
    paths = {}
    # it trains on the captions that the other rows train on, not on those of the embedded pictures alone
    for split, rows in (("train", "captions-train"), ("test", "images-test")):
        of = EmbeddingStore.open(stores[rows])
        paths[split] = output / f"constant-{split}"
        if not (paths[split] / "manifest.json").exists():
            with EmbeddingStoreWriter(paths[split], dim=images.dim, encoder=images.encoder) as writer:
                writer.append(of.ids, np.repeat(mean[None], len(of), 0), {"text": of.column("text")})
    return paths


def write_chats(images: EmbeddingStore, path: Path) -> Path:
    """Write stage 2's chats: a question about each train picture, answered by its caption."""
    with open(path, "w", encoding="utf-8") as file:
        for name, caption in zip(images.ids, images.column("text"), strict=True):
            question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
            answer = {"role": "assistant", "content": caption}
            file.write(json.dumps({"id": name, "messages": [question, answer]}) + "\n")
    return path


def row_config(base: RevisionConfig, row: str, stores: dict[str, Path], output: Path) -> RevisionConfig:
    """Give a row its correction and its store; everything else is the same for all rows."""
    config = copy.deepcopy(base)
    assert config.stage1 is not None
    config.output_dir = str(output / row)
    config.bridge.correction = str(output / "corrections" / ("realign" if row == "realign" else "none"))
    config.stage1.store = str(stores["captions-train"])
    if row == "blind":
        config.stage1.store, config.stage1.embeddings = str(output / "stores" / "constant-train"), "modality"
        config.bridge.input_noise = 0.0  # a constant has nothing to be blurred
    return config


def measure(model_dir: Path, store: Path, items: int, cache: Path) -> dict[str, Any]:
    """Measure a model on the first held-out pictures, once."""
    if cache.exists():
        return json.loads(cache.read_text())
    model, processor = AutoModel.from_pretrained(model_dir), AutoProcessor.from_pretrained(model_dir)
    pictures = EmbeddingStore.open(store)
    captions = pictures.column("text")[:items]
    # four other pictures are enough to calibrate by, and the minutes of more are better spent on training
    result = evaluate_captions(
        model.eval(), processor, "image", pictures[:items], captions, references=4, progress=True
    )
    cache.write_text(json.dumps(result, indent=1))
    return result


def gap(correction_dir: Path, stores: dict[str, Path]) -> float:
    """Distance between the mean corrected caption and the mean picture, held out."""
    correction = AutoCorrection.from_pretrained(correction_dir)
    text, image = (
        torch.from_numpy(np.asarray(EmbeddingStore.open(stores[f"{side}-test"])[:], np.float32))
        for side in ("captions", "images")
    )
    moved, real = correction(text), correction.transform_target(image)
    return centroid_gap(moved.double().mean(0), real.double().mean(0))


def answer(model_dir: Path) -> None:
    """Ask the finished model about three held-out pictures, from their pixels on."""
    model, processor = AutoModel.from_pretrained(model_dir), AutoProcessor.from_pretrained(model_dir)
    pictures = demo.load_captions("test")
    console.print(f"\n[bold]{QUESTION}[/bold]  (pictures that no part of the model has seen)")
    for index in (pictures.ids.index(i) for i in pick(pictures.ids)):
        row = pictures[index]
        content = [{"type": "image", "image": row["image"]}, {"type": "text", "text": QUESTION}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        said = processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        console.print(f"  {row['id']:<44} caption: {row['caption']:<26} model: [bold]{said}[/bold]")


def pick(ids: list[str]) -> list[str]:
    """Take three test pictures, one of each source, by their place in the alphabet: not by how well they go."""
    chosen = []
    for source in ("openclipart", "emoji", "furniture"):
        names = sorted(name for name in ids if name.startswith(source))
        chosen.append(names[len(names) // 2])
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    parser.add_argument("--config", type=Path, default=Path(__file__).parent / "configs" / "demo.yaml")
    parser.add_argument("--items", type=int, default=200, help="held-out pictures that the table is measured on")
    arguments, overrides = parser.parse_known_args()
    output: Path = arguments.output
    began = time.perf_counter()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()

    def say(text: str) -> None:
        console.print(f"[bold]{time.perf_counter() - began:5.0f} s[/bold]  {text}")

    base = load_config(RevisionConfig, arguments.config, overrides)
    base.language_model.id, base.bridge.encoder = str(demo.language_model()), str(demo.dual_encoder())
    say("embedding the pictures and captions")
    stores = demo.prepare_stores(output / "stores", splits=("train", "test"), every=2)
    constant = write_constant_stores(stores, output / "stores")
    captions, images = (EmbeddingStore.open(stores[f"{side}-train"]) for side in ("captions", "images"))
    say(f"fitting ReAlign on {len(captions)} captions and {len(images)} pictures, unpaired")
    for name, kind in (("none", NoCorrection), ("realign", ReAlign)):
        kind.fit(captions, images).save_pretrained(output / "corrections" / name)

    table = Table(title=f"{arguments.items} held-out real pictures, one seed, 95 % bootstrap intervals; chance 0.10")
    for heading in ("trained as", "nats per token", "10-way choice", "calibrated", "centroid gap"):
        table.add_column(heading)
    for row, title in ROWS.items():
        config = row_config(base, row, stores, output)
        say(f"stage 1, {title}: the connector alone, on captions")
        result = run_stage1(config)
        pictures = constant["test"] if row == "blind" else stores["images-test"]
        numbers = measure(result.model_dir, pictures, arguments.items, output / row / "held_out.json")
        measures = (numbers["nll_per_token"], numbers["choice"]["raw"], numbers["choice"]["calibrated"])
        cells = [f"{m['mean']:.2f} ({m['low']:.2f} to {m['high']:.2f})" for m in measures]
        distance = "" if row == "blind" else f"{gap(Path(config.bridge.correction or ''), stores):.3f}"
        table.add_row(title, *cells, distance)
    say("stage 2: connector and LoRA, on chats about real pictures")
    config = row_config(base, "realign", stores, output)
    assert config.stage2 is not None
    config.stage2.chats = str(write_chats(images, output / "chats.jsonl"))
    config.stage2.stores = {"image": str(stores["images-train"])}
    result = run_stage2(config)
    console.print(table)
    (output / "table.txt").write_text(_plain(table))
    answer(result.model_dir)
    say(f"done; the model is in {result.model_dir}: AutoModel.from_pretrained({str(result.model_dir)!r})")


def _plain(table: Table) -> str:
    """Render a table without colours."""
    plain = Console(width=120, no_color=True)
    with plain.capture() as capture:
        plain.print(table)
    return capture.get()


if __name__ == "__main__":
    main()
