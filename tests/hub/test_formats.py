"""What older versions saved goes on loading and gives what it gave (scripts/write_format_examples.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from hf_modalbridge import AutoCorrection
from hf_modalbridge.hub.outputs import outputs

FORMATS = Path(__file__).parents[1] / "formats"
EXPECTED = sorted(FORMATS.glob("v*/expected-*.safetensors"))


def test_there_are_examples_of_everything():
    names = {path.stem.removeprefix("expected-") for path in EXPECTED if path.parent.name == "v1"}
    assert {"store", "aligner", *(f"model-{kind}" for kind in ("plain", "realign", "bridge_only", "pairwise"))} <= names
    assert {f"encoder-{kind}" for kind in ("dual", "point", "touch-series", "touch-image")} <= names
    assert {kind.__name__.lower() for kind in AutoCorrection.types().values()} <= names
    size = sum(path.stat().st_size for path in FORMATS.rglob("*") if path.is_file())
    assert size < 400_000


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda p: f"{p.parent.name}-{p.stem.removeprefix('expected-')}")
def test_an_example_gives_what_it_gave(expected, monkeypatch):
    name = expected.stem.removeprefix("expected-")
    monkeypatch.chdir(expected.parent)  # bridge_only names its base by the folder beside it
    folder = next(path for path in (expected.parent / name, expected.parent / "corrections" / name) if path.is_dir())
    found = outputs(folder)
    before = load_file(expected)
    assert found.keys() == before.keys()
    for key, tensor in before.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("file", sorted(FORMATS.glob("v*/configs/*.json")), ids=lambda path: path.stem)
def test_the_config_of_a_released_model_still_builds_it(file):
    config = AutoConfig.from_pretrained(file)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert set(model.model.connectors) == set(config.modalities)
    assert "/root" not in file.read_text() and "/home" not in file.read_text()
