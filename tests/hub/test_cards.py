"""Cards made from a run's files: valid metadata, numbers of the run and no others, code that runs."""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from tiny_bridges import make_bridge, make_correction, vectors

from hf_modalbridge import EmbeddingStoreWriter
from hf_modalbridge.hub import RunFacts, model_card, validate_card
from hf_modalbridge.hub.cards import card_code

ROOT = Path(__file__).parents[2]
RESULT = {
    "items": 41,
    "nll_per_token": {"mean": 4.6171, "low": 4.4012, "high": 4.8334},
    "choice": {
        "n": 10,
        "seed": 0,
        "chance": 0.1,
        "raw": {"mean": 0.3312, "low": 0.2634, "high": 0.3921},
        "calibrated": {"mean": 0.3941, "low": 0.3217, "high": 0.4618},
    },
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("run") / "tiny-demo"
    bridge, processor = make_bridge(
        modalities={"image": {"correction": make_correction(), "num_tokens": 2}},
        language_model_source={"id": "org/tiny-llama", "revision": "abc123"},
        metadata={"stage2": {"steps": 90, "seed": 7, "loss": 2.345678, "held_out_loss": None}},
    )
    bridge.save_pretrained(path)
    processor.save_pretrained(path)
    return path


FACTS = RunFacts(
    results={"held-out pictures": RESULT},
    datasets=["org/pictures"],
    data="Pictures under CC0.",
    license="apache-2.0",
    command="python recipes/demo.py --seed 7",
    limits=["It knows 200 things."],
)


def test_the_metadata_is_what_the_hub_reads(directory, tmp_path):
    card = model_card(directory, "org/tiny-demo", FACTS)
    (tmp_path / "README.md").write_text(str(card))
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.license == "apache-2.0" and data.library_name == "hf_modalbridge"
    assert data.base_model == ["org/tiny-llama"] and data.datasets == ["org/pictures"]
    assert {"modalbridge", "realign", "image"} <= set(data.tags)
    found = {r.metric_type: (r.metric_value, r.metric_args["low"]) for r in data.eval_results}
    assert found == {
        "nll_per_token": (4.6171, 4.4012),
        "choice.raw": (0.3312, 0.2634),
        "choice.calibrated": (0.3941, 0.3217),
    }


def test_the_text_holds_the_runs_facts(directory):
    text = str(model_card(directory, "org/tiny-demo", FACTS))
    for words in (
        "| held-out pictures | 41 | nats per caption token | 4.617 | 4.401 to 4.833 |",
        "stage2: loss 2.346, seed 7, steps 90",
        "python recipes/demo.py --seed 7",
        "`org/tiny-llama` | abc123",
        "`realign`, fitted on 200 source and 300 target rows",
        "Pictures under CC0.",
        "- It knows 200 things.",
        "arxiv.org/abs/2602.07026",
    ):
        assert words in text, words
    assert not re.search(r"None|nan", text)


def test_a_card_that_lacks_facts_says_so(directory):
    with pytest.raises(ValueError, match="'pictures' is no repo id"):
        model_card(directory, "org/x", RunFacts(datasets=["pictures"]))
    plain = model_card(directory)
    assert plain.data.license == "other" and plain.data.license_name
    plain.data.license = None
    with pytest.raises(ValueError, match="no license"):
        validate_card(plain)
    with pytest.raises(FileNotFoundError, match="no config.json"):
        model_card(directory.parent)


def test_the_code_block_runs(directory, capsys, monkeypatch):
    code = card_code(model_card(directory, "org/tiny-demo", FACTS))
    script = directory.parent / "code.py"
    script.write_text(code.replace('"org/tiny-demo"', repr(str(directory))))
    runpy.run_path(str(script))
    assert capsys.readouterr().out.endswith("\n")


def test_the_script_makes_a_card_with_the_gap_report_and_its_picture(directory, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    for name, shift in (("text", 0.8), ("image", -0.6)):
        rows = vectors(60, seed=4 + len(name)).numpy() + shift
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        with EmbeddingStoreWriter(tmp_path / name, dim=12, dtype="float32") as writer:
            writer.append([f"r{i}" for i in range(60)], rows.astype(np.float32))
    (tmp_path / "held_out.json").write_text(json.dumps(RESULT))
    arguments = [directory, "--repo-id", "org/tiny-demo", "--results", f"pictures={tmp_path / 'held_out.json'}"]
    arguments += ["--gap", tmp_path / "text", tmp_path / "image", "--license", "mit", "--output", tmp_path / "card.md"]
    monkeypatch.setattr(sys, "argv", ["model_card.py", *map(str, arguments)])
    monkeypatch.setenv("MPLBACKEND", "Agg")
    runpy.run_path(str(ROOT / "scripts" / "model_card.py"), run_name="__main__")
    text = (tmp_path / "card.md").read_text()
    validate_card(ModelCard.load(tmp_path / "card.md"))
    assert "(card.png)" in text and (tmp_path / "card.png").stat().st_size > 10_000
    assert "realign" in text.split("## Modality gap")[1] and "0.331" in text


def test_the_cards_of_the_repository_are_valid():
    cards = [path for path in (ROOT / "model_cards").glob("*.md") if path.name != "README.md"]
    for path in cards:
        validate_card(ModelCard.load(path))
    assert os.path.exists(ROOT / "model_cards" / "README.md")
