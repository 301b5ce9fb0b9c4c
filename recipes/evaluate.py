"""Measure a bridge on held-out items: likelihood of the true caption and n-way caption choice.

Needs `pip install hf-modalbridge`. Tested as:

    python recipes/evaluate.py model=runs/smoke/stage2/model store=stores/image modality=image
    output=runs/smoke/result.json

The store holds the items' embeddings and, in `text_column`, their captions; the encoder is not run.
`question` asks in the model's chat template, as after stage 2; without it the plain prompt of stage 1 is
used. Intervals are 95 % bootstrap intervals over items.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoModel, AutoProcessor

from hf_modalbridge import EmbeddingStore
from hf_modalbridge.evaluation import evaluate_captions
from hf_modalbridge.training import load_config


@dataclass
class EvaluateConfig:
    """What to measure, and how."""

    model: str
    store: str
    modality: str
    output: str | None = None
    text_column: str = "text"
    kind: Literal["embeds", "imagine_embeds"] = "embeds"
    question: str | None = None
    n: int = 10
    seed: int = 0
    limit: int | None = None
    device: str = "cpu"
    per_item: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML file with the same keys")
    arguments, overrides = parser.parse_known_args()
    config = load_config(EvaluateConfig, arguments.config, overrides)
    store = EmbeddingStore.open(config.store)
    model = AutoModel.from_pretrained(config.model).to(torch.device(config.device)).eval()
    processor = AutoProcessor.from_pretrained(config.model)
    correction = model.model.corrections[config.modality] if config.modality in model.model.corrections else None
    if correction is not None:
        correction.check_encoder(store.encoder, "target" if config.kind == "embeds" else "source")
    rows = slice(0, config.limit)
    result = evaluate_captions(
        model,
        processor,
        config.modality,
        store[rows],
        store.column(config.text_column)[rows],
        kind=config.kind,
        question=config.question,
        n=config.n,
        seed=config.seed,
        progress=True,
        per_item=config.per_item,
    )
    result["config"] = asdict(config)
    text = json.dumps(result, indent=2)
    if config.output is not None:
        Path(config.output).parent.mkdir(parents=True, exist_ok=True)
        Path(config.output).write_text(text + "\n", encoding="utf-8")
    print(text if not config.per_item else json.dumps({k: v for k, v in result.items() if k != "per_item"}, indent=2))


if __name__ == "__main__":
    main()
