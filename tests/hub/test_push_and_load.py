"""A model pushed by the real client, and loaded in fresh processes with empty caches, both ways in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file
from tiny_bridges import (
    make_cloud,
    make_correction,
    make_lm,
    make_point_bridge,
    make_point_encoder,
    make_tokenizer,
    vectors,
)
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor, LlamaConfig, LlamaForCausalLM

from hf_modalbridge import AutoCorrection, ModalBridgeForConditionalGeneration, PairwiseAligner, cli
from hf_modalbridge.encoders import encode, load_encoder, prepare_items
from hf_modalbridge.hub import download, hook, push, write_bundle
from hf_modalbridge.hub.bundle import bundle_files
from hf_modalbridge.models import PairwiseConfig

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
elif sys.argv[3] == "hook":
    import site
    site.addsitedir(sys.argv[5])  # as Python does with site-packages at its start
else:
    import hf_modalbridge
import numpy
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor

options = {"trust_remote_code": True, "revision": sys.argv[4]} if sys.argv[3] == "bundle" else {}
model = AutoModel.from_pretrained(sys.argv[1], **options)
processor = AutoProcessor.from_pretrained(sys.argv[1], **options)
x = torch.randn(1, 12, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    image = model(**processor.plain(["a red chair"], "image", embeds=x)).logits
    point = model(**processor(text=["<|point|> what is this?"], point=[sys.argv[6]])).logits
save_file({"image": image, "point": point}, sys.argv[2])
print(type(model).__module__.partition(".")[0], "hf_modalbridge" in sys.modules and sys.argv[3] != "bundle")
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A bridge that reads clouds from files and embeddings of pictures, and its logits for one of each."""
    root = tmp_path_factory.mktemp("model")
    np.save(root / "cloud.npy", make_cloud().numpy())
    shape = {"hidden_size": 160, "intermediate_size": 320, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    language_model = LlamaForCausalLM(LlamaConfig(vocab_size=len(make_tokenizer()), initializer_range=0.3, **shape))
    bridge, processor = make_point_bridge(language_model=language_model.eval())
    bridge.save_pretrained(root / "modalbridge-pc")
    processor.save_pretrained(root / "modalbridge-pc")
    return root / "modalbridge-pc", logits(bridge, processor, root / "cloud.npy")


def logits(bridge, processor, cloud: Path) -> dict[str, torch.Tensor]:
    """Logits on one thread, as the fresh processes compute them: more threads sum in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            image = bridge(**processor.plain(["a red chair"], "image", embeds=vectors(1))).logits
            point = bridge(**processor(text=["<|point|> what is this?"], point=[str(cloud)])).logits
    finally:
        torch.set_num_threads(threads)
    return {"image": image, "point": point}


@pytest.fixture(scope="module")
def commit(shared_hub, run, model, tmp_path_factory) -> str:
    """Push with the bundle, from a fresh process."""
    sha, files, compared = run(shared_hub, tmp_path_factory.mktemp("a"), PUSH, model[0], "org/modalbridge-pc").split()
    heads = "ids.0,ids.1,ids.2,image.imagined,image.logits,image.tokens"
    assert compared == f"{heads},point.features,point.logits,point.tokens"
    assert int(files) > 60  # the bundle and the card among them
    assert not list(model[0].glob("*.py")) and not (model[0] / "README.md").exists()  # the directory is as it was
    return sha


@pytest.mark.slow
@pytest.mark.parametrize("way", ["package", "hook", "bundle"])
def test_all_ways_in_give_equal_logits(shared_hub, run, model, commit, tmp_path, way):
    out, site, cloud = tmp_path / "logits.safetensors", tmp_path / "site", model[0].parent / "cloud.npy"
    site.mkdir()
    hook.install(site)
    said = run(shared_hub, tmp_path / "home", LOAD, "org/modalbridge-pc", out, way, commit, site, cloud)
    assert said == ("transformers_modules False" if way == "bundle" else "hf_modalbridge True")
    found = load_file(out)
    for name, expected in model[1].items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-5)
    print(f"{way}: {tuple(found['point'].shape)} and {tuple(found['image'].shape)} logits, equal")


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
    text = (tmp_path / "code.py").read_text()
    assert 'from_pretrained("org/modalbridge-pc")' in text
    run(shared_hub, tmp_path / "home", text)


def test_a_correction_comes_alone_and_is_a_small_part_of_the_bytes(hub, client, model, tmp_path):
    client(hub, tmp_path / "a")
    done = push(model[0], "org/modalbridge-pc", bundle=False)
    client(hub, tmp_path / "b")
    hub.bytes_sent = 0
    correction = AutoCorrection.from_pretrained("org/modalbridge-pc", modality="image")
    assert correction.is_fitted and correction.dim == 12
    assert 0 < hub.bytes_sent < 0.05 * done.size
    print(f"the correction alone: {hub.bytes_sent:,} of {done.size:,} bytes, {hub.bytes_sent / done.size:.1%}")
    loaded = AutoModel.from_pretrained("org/modalbridge-pc")  # into the same cache: only the rest comes
    processor = AutoProcessor.from_pretrained("org/modalbridge-pc")
    found = logits(loaded, processor, model[0].parent / "cloud.npy")
    assert all(torch.equal(found[name], expected) for name, expected in model[1].items())
    only = download("org/modalbridge-pc", cache_dir=tmp_path / "c", allow_patterns=["config.json", "corr*.safetensors"])
    assert sorted(path.name for path in only.iterdir()) == ["config.json", "correction.safetensors"]


def test_everything_pushes_itself_and_comes_back(hub, client, tmp_path):
    """`push_to_hub` of each class, as transformers' users call it."""
    client(hub, tmp_path / "a")
    bridge, processor = make_point_bridge()
    encoder, extractor = make_point_encoder()
    correction, cloud = make_correction(), make_cloud().numpy()
    for part in (bridge, processor):
        part.push_to_hub("org/bridge")
    bridge.push_to_hub("org/bridge", revision="next", private=True)
    for part in (encoder, extractor):
        part.push_to_hub("org/points")
    correction.push_to_hub("org/realign")
    client(hub, tmp_path / "b")
    loaded, again = AutoModel.from_pretrained("org/bridge"), AutoProcessor.from_pretrained("org/bridge")
    np.save(tmp_path / "cloud.npy", cloud)
    before, after = (logits(*pair, tmp_path / "cloud.npy") for pair in ((bridge, processor), (loaded, again)))
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert AutoModel.from_pretrained("org/bridge", revision="next").config.modalities.keys() == {"point", "image"}
    rows = [encode(*pair) for pair in _prepared(cloud, (encoder, extractor), load_encoder("org/points"))]
    assert torch.equal(*rows)
    assert torch.equal(AutoCorrection.from_pretrained("org/realign")(vectors(3)), correction(vectors(3)))


def _prepared(cloud, *encoders):
    for model, extractor in encoders:
        yield model, "point", prepare_items(extractor, "point", [cloud])


def test_push_verifies_encoders_processors_and_aligners(hub, client, tmp_path):
    client(hub, tmp_path / "a")
    bridge, processor = make_point_bridge()
    encoder, extractor = make_point_encoder()
    encoder.save_pretrained(tmp_path / "encoder")
    extractor.save_pretrained(tmp_path / "encoder")
    processor.save_pretrained(tmp_path / "processor")
    modalities = {"point": {"input_dim": 8, "num_tokens": 5}, "text": {"input_dim": 6, "num_tokens": 3}}
    edges = [{"source": "point", "target": "text", "active": 4}]
    sizes = {"width": 8, "num_latents": 2, "encoder_layers": 1, "decoder_layers": 1, "heads": 2}
    PairwiseAligner(PairwiseConfig(modalities=modalities, edges=edges, **sizes)).save_pretrained(tmp_path / "aligner")
    found = {kind: push(tmp_path / kind, f"org/{kind}") for kind in ("encoder", "processor", "aligner")}
    assert {kind: done.kind for kind, done in found.items()} == {kind: kind for kind in found}
    assert "probe.point" in found["encoder"].compared
    assert found["processor"].compared == ("ids.0", "ids.1", "ids.2", "image.tokens", "point.tokens")
    assert found["aligner"].compared == ("point-text.recomposed", "point.embedded", "text.embedded")


def test_the_command_line_pushes_and_says_what_it_compared(hub, client, tmp_path, capsys):
    client(hub, tmp_path / "a")
    make_correction().save_pretrained(tmp_path / "c")
    with pytest.raises(SystemExit) as end:
        cli.main(["push", str(tmp_path / "c"), "org/c", "--private", "--revision", "v1"])
    said = capsys.readouterr()
    assert end.value.code == 0, said.err
    assert "correction: 3 files" in said.out and "came back the same: source, target" in said.out
    assert HfApi().model_info("org/c", revision="v1").private


def test_where_parts_lay_on_this_machine_does_not_go_up(hub, client, tmp_path):
    client(hub, tmp_path / "a")
    make_lm().save_pretrained(tmp_path / "private-name" / "lm")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "private-name" / "lm")
    bridge, processor = make_point_bridge(language_model=base)
    bridge.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    kept = (tmp_path / "m" / "config.json").read_text()
    assert "private-name" in kept
    push(tmp_path / "m", "org/m", bundle=False)
    assert (tmp_path / "m" / "config.json").read_text() == kept
    folder = download("org/m", cache_dir=tmp_path / "b")
    assert not [path for path in folder.rglob("*") if path.is_file() and b"private-name" in path.read_bytes()]
    assert json.loads((folder / "config.json").read_text())["language_model_source"]["id"] == "lm"


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
