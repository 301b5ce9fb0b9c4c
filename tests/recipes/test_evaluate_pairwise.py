"""The pairwise comparison on a tiny world: rows, resuming, tables."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from pairwise_world import build_pairwise_world, pairwise_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
STEPS = ("--stage1-steps", "2", "--stage2-steps", "2", "--adapter-steps", "2")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairwise")
    world = build_pairwise_world(root)
    for name in ("point", "image"):
        shutil.copytree(root / f"held-{name}", root / f"{name}s-test")
    values = pairwise_recipe(world, root / "unused")
    for pair in values["pairs"]:
        pair["stores"] = {name: Path(path).name for name, path in pair["stores"].items()}
    values["evaluate"] = [{"modality": "point", "store": "points-test", "label_column": "thing", "choices": 8}]
    values["triples"] = [{"stores": {"point": "points-test", "image": "images-test"}}]
    (root / "config.yaml").write_text(yaml.safe_dump(values))
    return [
        *("--config", root / "config.yaml", "--stores", root, "--small-lm", world.language_model),
        *("--output", root / "study", "--docs", root / "docs", *STEPS),
    ]


@pytest.fixture
def run(monkeypatch):
    def run(*words) -> dict:
        monkeypatch.setattr(sys, "argv", ["evaluate_pairwise.py", *map(str, words)])
        return runpy.run_path(str(RECIPES / "evaluate_pairwise.py"), run_name="__main__")

    return run


def test_all_rows_become_a_page_and_are_not_run_again(command, run, capsys):
    names = run(*command, "--seeds", "2")
    folder = Path(command[command.index("--output") + 1])
    page = (Path(command[command.index("--docs") + 1]) / "pairwise.md").read_text()
    assert all(f"| {title} |" in page for row, title in names["ROWS"].items() if row != "unpaired")
    assert (
        "48 held-out objects" in page
        and "R@10 of pictures and clouds that were never paired: to each other, image to point: " in page
    )
    results = {file.stem: json.loads(file.read_text()) for file in (folder / "results").glob("*.json")}
    assert len(results) == 2 * len(names["ROWS"])
    assert results["full-seed0"]["triples"] == results["no_stage2-seed0"]["triples"], "one aligner"
    assert results["full-seed0"]["point"] != results["no_stage2-seed0"]["point"]
    assert results["full-seed0"]["triples"]["image-point"]["retrieval"]["paired"]
    assert not results["unpaired-seed1"]["triples"]["image-point"]["retrieval"]["paired"]
    # a model that sees no cloud: every calibrated choice is a tie of all
    assert results["blind-seed0"]["point"]["choice"]["calibrated"]["mean"] == pytest.approx(1 / 8)
    capsys.readouterr()
    run(*command, "--seeds", "2")
    assert " s: " not in capsys.readouterr().out, "nothing ran"
    with pytest.raises(ValueError, match="use another --output"):
        run(*command, "--seeds", "1", "--stage1-steps", "3")
