"""From clouds to a chat about a .glb file: encoder, stores of tokens, both stages, the command line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pairwise_world import build_pairwise_world, pairwise_recipe

from hf_modalbridge import cli
from hf_modalbridge.data.embed_tokens import embed_tokens
from hf_modalbridge.encoders import PointEncoder, PointEncoderConfig, PointFeatureExtractor, load_encoder
from hf_modalbridge.training import build_config
from hf_modalbridge.training.pairwise import run_pairwise
from hf_modalbridge.training.pairwise_config import PairwiseRecipe

trimesh = pytest.importorskip("trimesh")
SHAPE = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("points")
    torch.manual_seed(0)
    PointEncoder(PointEncoderConfig(**SHAPE, num_groups=4, group_size=8)).save_pretrained(root / "encoder")
    PointFeatureExtractor(num_points=64).save_pretrained(root / "encoder")
    world = build_pairwise_world(root)
    rng = np.random.default_rng(0)
    items = [
        {"id": str(i), "point": rng.normal(size=(40 + i, 3)), "text": caption}
        for i, caption in enumerate(world.captions["held"][:16])
    ]
    store = embed_tokens(*load_encoder(root / "encoder"), "point", items, root / "clouds", 5, progress=False)
    assert store.dim == 5 * 8 and store.column("text")[3] == items[3]["text"]
    before = (root / "clouds" / "manifest.json").read_bytes()
    embed_tokens(*load_encoder(root / "encoder"), "point", items, root / "clouds", 5, progress=False)
    assert (root / "clouds" / "manifest.json").read_bytes() == before
    with pytest.raises(FileExistsError, match="complete store of 16 rows"):
        embed_tokens(*load_encoder(root / "encoder"), "point", items[:9], root / "clouds", 5, progress=False)
    values = pairwise_recipe(world, root / "out", stage1={"loop": {"max_steps": 2}}, stage2={"loop": {"max_steps": 2}})
    values["modalities"]["point"]["encoder"] = str(root / "encoder")
    del values["modalities"]["image"]
    values["pairs"] = [{"source": "point", "target": "text", "stores": {"point": str(root / "clouds")}}]
    return run_pairwise(build_config(PairwiseRecipe, values))["stage2"].model_dir


@pytest.fixture
def chair(tmp_path):
    file = tmp_path / "chair.glb"
    trimesh.creation.box((1, 2, 1)).export(file)
    return file


def answer(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main(["chat", *words, "--max-new-tokens", "4"])
    captured = capsys.readouterr()
    assert end.value.code == 0, captured.err
    return captured.out


def test_chat_about_a_file_by_the_modalitys_name(model_dir, chair, capsys):
    said = answer(capsys, "--model", str(model_dir), "--points", str(chair), "What is this?")
    assert said == answer(capsys, "--model", str(model_dir), f"--point={chair}", "What is this?")
    assert said == answer(capsys, str(model_dir), str(chair), "--ask", "What is this?")


def test_chat_says_what_is_wrong(model_dir, chair, capsys):
    for words, message in (
        (["--model", str(model_dir), "--sounds", str(chair), "Hm?"], "no modality 'sounds'; it has point"),
        (["--model", str(model_dir), "--points"], "--points needs a file"),
        (["--points", str(chair)], "which model?"),
        (["--model", str(model_dir), "--points", "missing.glb", "Hm?"], "no file 'missing.glb'"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(["chat", *words])
        assert end.value.code == 1
        assert message in capsys.readouterr().err


def test_the_whole_model_reads_what_the_store_was_made_of(model_dir):
    from transformers import AutoModel, AutoProcessor

    from hf_modalbridge.store import EmbeddingStore

    model, processor = AutoModel.from_pretrained(model_dir), AutoProcessor.from_pretrained(model_dir)
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(40 + i, 3)) for i in range(3)]
    inputs = processor(text=["<|point|>"] * 3, point=clouds)["modality_inputs"]["point"]
    tokens = model.embed("point", **inputs)
    store = EmbeddingStore.open(model_dir.parents[2] / "clouds")
    np.testing.assert_allclose(tokens.detach().numpy().reshape(3, -1), store[:3], atol=2e-3)
