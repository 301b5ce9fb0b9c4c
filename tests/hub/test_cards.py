"""Cards made from a run's files: valid metadata, numbers of the run and no others, code that runs."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from tiny_bridges import make_bridge, make_correction, make_point_bridge, vectors

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
RETRIEVAL = {"items": 9, "paired": False, "R@10": {"mean": 0.5125, "low": 0.4, "high": 0.6, "chance": 0.25}}


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


@pytest.fixture
def card_of_a_run(directory, tmp_path, monkeypatch):
    """Run the script on a run's folder with the words given."""
    monkeypatch.setenv("MPLBACKEND", "Agg")

    def make(words: dict) -> str:
        (tmp_path / "card.yaml").write_text(yaml.safe_dump(words))
        monkeypatch.setattr(sys, "argv", ["model_card.py", str(directory.parent), str(tmp_path / "card.md")])
        runpy.run_path(str(ROOT / "scripts" / "model_card.py"), run_name="__main__")
        validate_card(ModelCard.load(tmp_path / "card.md"))
        return (tmp_path / "card.md").read_text()

    return make


def write_stores(folder: Path) -> list[Path]:
    for name, shift in (("text", 0.8), ("image", -0.6)):
        rows = vectors(60, seed=4 + len(name)).numpy() + shift
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        with EmbeddingStoreWriter(folder / name, dim=12, dtype="float32") as writer:
            captions = [f"a {colour} {thing}" for colour in ("red", "green", "round") for thing in ("chair", "dog")]
            captions += [f"{caption} on the floor" for caption in captions]
            writer.append([f"r{i}" for i in range(60)], rows.astype(np.float32), {"text": captions * 5})
    return [folder / "text", folder / "image"]


def test_the_script_reads_measures_and_draws(directory, card_of_a_run, tmp_path):
    pytest.importorskip("matplotlib")
    (directory.parent / "stage1" / "model").mkdir(parents=True)
    record = {"metadata": {"stage1": {"seed": 9, "steps": 5}}}
    (directory.parent / "stage1" / "model" / "config.json").write_text(json.dumps(record))
    (directory.parent / "held_out.json").write_text(json.dumps(RESULT))
    (directory.parent / "all.json").write_text(json.dumps({"triples": [{"a-b": {"retrieval": RETRIEVAL}}]}))
    _, image = stores = write_stores(tmp_path)
    measured = {"file": "measured.json", "modality": "image", "store": str(image), "items": 12}
    words = {
        **{"repo_id": "org/tiny-demo", "model": "tiny-demo", "license": "mit", "command": "python recipes/x.py"},
        "results": {"pictures": "held_out.json", "b by a": "all.json#triples.0.a-b.retrieval", "measured": measured},
        "compared": {"another": "held_out.json"},
        **{"gap": [str(store) for store in stores], "limits": ["It knows 200 things."]},
    }
    text = card_of_a_run(words)
    assert "(card.png)" in text and (tmp_path / "card.png").stat().st_size > 5_000
    assert "realign" in text.split("## Modality gap")[1] and "python recipes/x.py" in text
    assert "- stage1: seed 9, steps 5\n- stage2: loss 2.346, seed 7, steps 90" in text
    assert "| pictures | 41 | choice of the caption, by likelihood | 0.331 | 0.263 to 0.392 | 0.1 |" in text
    assert "| b by a | 9 | retrieval, R@10 | 0.512 | 0.400 to 0.600 | 0.25 |" in text
    assert "| another | 41 |" in text
    found = json.loads((directory.parent / "measured.json").read_text())
    assert f"| measured | 12 | nats per caption token | {found['nll_per_token']['mean']:.3f} |" in text
    names = {r.dataset_name for r in ModelCard.load(tmp_path / "card.md").data.eval_results}
    assert names == {"pictures", "b by a", "measured"}, "what was measured of other models is not this one's"
    before = (directory.parent / "measured.json").stat().st_mtime_ns
    assert card_of_a_run(words) == text and (directory.parent / "measured.json").stat().st_mtime_ns == before


def test_a_card_of_the_pairwise_route_names_what_it_is(tmp_path):
    bridge, processor = make_point_bridge(
        metadata={"stage2": {"seed": 3, "command": "python recipes/train_pairwise.py"}}
    )
    bridge.save_pretrained(tmp_path / "pc")
    processor.save_pretrained(tmp_path / "pc")
    card = model_card(tmp_path / "pc", "org/modalbridge-pc", RunFacts(license="apache-2.0", command="python other.py"))
    assert {"pairwise", "point", "realign"} <= set(card.data.tags)
    text = str(card)
    for words in (
        "2605.21059",
        "Point-BERT",
        "```bash\npython recipes/train_pairwise.py\n```",
        '"path": a file',
        "seed 3",
    ):
        assert words in text, words
    assert "other.py" not in text, "what the run recorded counts"
    script = tmp_path / "code.py"
    script.write_text(card_code(card).replace('"org/modalbridge-pc"', repr(str(tmp_path / "pc"))))
    runpy.run_path(str(script))


def test_a_part_converted_from_a_repo_is_named_by_it(tmp_path):
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "origin.json").write_text(json.dumps({"upstream": "org/tiny-llama"}))
    (tmp_path / "lm" / "README.md").write_text("---\nlicense: mit\n---\n")
    bridge, _ = make_bridge(language_model_source={"id": str(tmp_path / "lm")})
    bridge.save_pretrained(tmp_path / "m")
    card = model_card(tmp_path / "m", "org/m")
    assert card.data.base_model == ["org/tiny-llama"] and card.data.license == "mit"
    assert str(tmp_path) not in str(card)


CARDS = sorted(path for path in (ROOT / "model_cards").glob("*.md") if path.name != "README.md")


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_the_cards_of_the_repository_are_valid_and_name_no_machine(path, tmp_path):
    card = ModelCard.load(path)
    validate_card(card)
    text = path.read_text()
    assert path.with_suffix(".yaml").exists() and "/root" not in text and "/home" not in text
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (path.parent / picture).stat().st_size > 5_000
    compile(card_code(card), path.name, "exec")
    assert f'from_pretrained("{yaml.safe_load(path.with_suffix(".yaml").read_text())["repo_id"]}")' in card_code(card)
