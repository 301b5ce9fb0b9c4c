"""A model pushed by the real client, and loaded in fresh processes with empty caches, both ways in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_bridges import make_bridge, make_correction, make_tokenizer, vectors
from transformers import AutoModel, AutoProcessor, LlamaConfig, LlamaForCausalLM

from hf_modalbridge import AutoCorrection, ModalBridgeForConditionalGeneration
from hf_modalbridge.hub import push, write_bundle
from hf_modalbridge.hub.bundle import bundle_files

PUSH = """
import sys
from hf_modalbridge.hub import push
done = push(sys.argv[1], sys.argv[2])
print(done.commit, done.files, ",".join(done.compared))
"""
LOAD = """
import sys
if sys.argv[3] == "bundle":
    sys.modules["hf_modalbridge"] = None  # as if it were not installed
else:
    import hf_modalbridge
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor

options = {"trust_remote_code": True, "revision": sys.argv[4]} if sys.argv[3] == "bundle" else {}
model = AutoModel.from_pretrained(sys.argv[1], **options)
processor = AutoProcessor.from_pretrained(sys.argv[1], **options)
x = torch.randn(1, 12, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    logits = model(**processor.plain(["a red chair"], "image", embeds=x)).logits
save_file({"logits": logits}, sys.argv[2])
print(type(model).__module__.partition(".")[0])
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> tuple[Path, torch.Tensor]:
    path = tmp_path_factory.mktemp("model") / "modalbridge-pc"
    shape = {"hidden_size": 160, "intermediate_size": 320, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    language_model = LlamaForCausalLM(LlamaConfig(vocab_size=len(make_tokenizer()), initializer_range=0.3, **shape))
    modalities = {"image": {"correction": make_correction(), "num_tokens": 2}}
    bridge, processor = make_bridge(language_model=language_model.eval(), modalities=modalities)
    bridge.save_pretrained(path)
    processor.save_pretrained(path)
    with torch.inference_mode():
        logits = bridge(**processor.plain(["a red chair"], "image", embeds=vectors(1))).logits
    return path, logits


@pytest.fixture(scope="module")
def commit(shared_hub, run, model, tmp_path_factory) -> str:
    """Push with the bundle, from a fresh process."""
    sha, files, compared = run(shared_hub, tmp_path_factory.mktemp("a"), PUSH, model[0], "org/modalbridge-pc").split()
    assert compared == "ids.0,ids.1,image.imagined,image.logits,image.tokens"
    assert int(files) > 60  # the bundle and the card among them
    assert not list(model[0].glob("*.py")) and not (model[0] / "README.md").exists()  # the directory is as it was
    return sha


@pytest.mark.slow
@pytest.mark.parametrize("way", ["package", "bundle"])
def test_both_ways_in_give_equal_logits(shared_hub, run, model, commit, tmp_path, way):
    out = tmp_path / "logits.safetensors"
    said = run(shared_hub, tmp_path / "home", LOAD, "org/modalbridge-pc", out, way, commit)
    assert said == {"package": "hf_modalbridge", "bundle": "transformers_modules"}[way]
    torch.testing.assert_close(load_file(out)["logits"], model[1], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_card_in_the_repo_runs(shared_hub, run, commit, tmp_path):
    code = """
import pathlib, sys
from huggingface_hub import ModelCard
from hf_modalbridge.hub.cards import card_code, validate_card
card = ModelCard.load("org/modalbridge-pc")
validate_card(card)
pathlib.Path(sys.argv[1]).write_text(card_code(card))
"""
    run(shared_hub, tmp_path / "home", code, tmp_path / "code.py")
    text = (tmp_path / "code.py").read_text().replace('"staged"', '"org/modalbridge-pc"')
    run(shared_hub, tmp_path / "home", text)


def test_a_correction_comes_alone_and_is_a_small_part_of_the_bytes(hub, client, model, tmp_path):
    client(hub, tmp_path / "a")
    done = push(model[0], "org/modalbridge-pc", bundle=False)
    client(hub, tmp_path / "b")
    hub.bytes_sent = 0
    correction = AutoCorrection.from_pretrained("org/modalbridge-pc", modality="image")
    assert correction.is_fitted and correction.dim == 12
    assert 0 < hub.bytes_sent < 0.05 * done.size
    loaded = AutoModel.from_pretrained("org/modalbridge-pc")  # into the same cache: only the rest comes
    processor = AutoProcessor.from_pretrained("org/modalbridge-pc")
    with torch.inference_mode():
        logits = loaded(**processor.plain(["a red chair"], "image", embeds=vectors(1))).logits
    torch.testing.assert_close(logits, model[1], rtol=0, atol=0)


def test_the_bundle_is_flat_complete_and_named_in_the_configs(model, tmp_path):
    files = bundle_files()
    for name, text in files.items():
        assert "hf_modalbridge." not in "".join(
            ln for ln in text.splitlines() if ln.lstrip().startswith(("from", "import"))
        )
        for line in text.splitlines():
            if line.lstrip().startswith("from ."):
                assert f"{line.split()[1].removeprefix('.')}.py" in files, (name, line)
    bridge = ModalBridgeForConditionalGeneration.from_pretrained(model[0])
    bridge.save_pretrained(tmp_path)
    (tmp_path / "mine.py").write_text("x = 1\n")
    written = write_bundle(tmp_path)
    assert write_bundle(tmp_path) == written == sorted(files)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"]["AutoModel"].startswith(
        "modeling_modalbridge."
    )
    assert (tmp_path / "mine.py").exists()
    with pytest.raises(ValueError, match="no modalbridge model"):
        write_bundle(tmp_path / "nothing")


def test_bundle_leaves_out_what_only_training_needs():
    files = bundle_files()
    assert not {"components.py", "store.py", "corrections_aniso_fit.py", "corrections_joining.py"} & set(files)
    assert "import pyarrow" not in "".join(files.values())
