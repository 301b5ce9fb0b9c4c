"""The touch study on a few recordings: all methods run, are measured once, and make a table."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_world import COLOURS, THINGS, build_language_model, build_tokenizer

from hf_modalbridge.data.recordings import TouchRecordings

RECIPE = Path(__file__).parents[2] / "recipes" / "evaluate_touch.py"
NAMES = [f"{colour} {thing}" for colour, thing in zip(COLOURS, THINGS, strict=False)][:6]


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("evaluate_touch", RECIPE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["evaluate_touch"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["evaluate_touch"]


def recordings(names: list[str], count: int, seed: int) -> TouchRecordings:
    """Recordings whose channels lie where their material says."""
    rng = np.random.default_rng(seed)
    places = {name: np.random.default_rng(NAMES.index(name)).normal(size=44) for name in NAMES}
    rows = [(name, i) for name in names for i in range(count)]
    values = np.stack([places[name] + 0.1 * rng.normal(size=(400, 44)) for name, _ in rows]).astype(np.float32)
    materials = [name for name, _ in rows]
    return TouchRecordings(
        [f"{seed}-{n}-{i}" for n, i in rows], values, materials, [f"a {name}." for name in materials]
    )


@pytest.fixture
def arguments(tmp_path):
    tokenizer = build_tokenizer()
    build_language_model(len(tokenizer)).save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    steps = {"encoder_steps": 3, "stage1_steps": 2, "stage2_steps": 2, "adapter_steps": 30}
    return argparse.Namespace(output=tmp_path / "study", small_lm=tmp_path / "lm", seeds=1, **steps)


@pytest.mark.slow
def test_all_methods_are_measured_once(recipe, arguments, monkeypatch):
    monkeypatch.setattr(recipe, "ENCODER", {**recipe.TOWER, "num_hidden_layers": 1, "patch_samples": 100})
    seen, unseen = NAMES[:4], NAMES[4:]
    case = recipe.Case(
        "biotac-x", recordings(seen, 8, 0), {"20": recordings(seen, 3, 1), "4": recordings(unseen, 4, 2)}
    )
    results = {r["method"]: r["correct"] for r in recipe.run_case(case, 0, arguments)}
    assert results.keys() == recipe.METHODS.keys()
    assert set(recipe.ABLATIONS) <= results.keys()
    for method, found in results.items():
        assert {task: len(values) for task, values in found.items()} == (
            {"20": 12} if method.startswith("probe") else {"20": 12, "4": 8}
        )
    for method in ("probe_channels", "probe_random", "probe_encoder", "ridge"):
        assert np.mean(results[method]["20"]) == 1, method
    assert np.mean(results["adapter"]["20"]) > 0.5, "four materials that lie apart"
    monkeypatch.setattr(recipe, "prepare", None)  # nothing is done again
    again = recipe.run_case(case, 0, arguments)
    assert {r["method"]: r["correct"] for r in again} == results
    changed = argparse.Namespace(**{**vars(arguments), "adapter_steps": 31})
    with pytest.raises(ValueError, match="use another --output"):
        recipe.run_case(case, 0, changed)
    arguments.docs = arguments.output
    recipe.write_table(again, arguments)
    text = (arguments.docs / "touch.md").read_text()
    assert "2-layer MLP adapter" in text and "| 1.000 (1.000 to 1.000) |" in text
    assert "real BioTac slides, 20 materials: 1 run(s) of 12 recordings" in text


def test_groups_of_materials_are_left_out_once_each(recipe, tmp_path):
    names = [f"m{i:02d}" for i in range(20)]
    n, y = np.meshgrid([1, 41], np.arange(20))
    x = np.repeat(np.arange(20, dtype=np.float32), 2)[:, None, None] * np.ones((1, 2, 44), np.float32)
    texts = ["Long text of many words that goes on and on and on. And on." for _ in names]
    np.savez(tmp_path / "b.npz", x=x, y=y.ravel(), n=n.ravel(), name=names, desc=texts)
    given = argparse.Namespace(sources=["biotac"], biotac=tmp_path / "b.npz", seeds=2, output=tmp_path)
    cases = recipe.load_cases(given)
    order = [(case.name, seed) for case, seed in cases]
    assert order[:3] == [("biotac-all", 0), ("biotac-without-0", 0), ("biotac-all", 1)]
    folds = [case for case, _ in cases if "without" in case.name]
    left_out = [set(case.tests["4"].materials) for case in folds]
    assert [len(group) for group in left_out] == [4] * 5 and set().union(*left_out) == set(names)
    for case in folds:
        assert "full" in recipe.methods_of(case) and "no_stage1" not in recipe.methods_of(case)
        assert not set(case.train.materials) & set(case.tests["4"].materials) and len(case.train) == 16
        assert not set(case.train.descriptions) & set(case.tests["4"].descriptions)
    assert cases[0][0].train.descriptions[3] == "m03: Long text of many words that goes on and on"
