from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_world import DIM, recipe
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor

from hf_modalbridge.data import BridgeCollator, CaptionDataset
from hf_modalbridge.store import EmbeddingStore, EmbeddingStoreWriter
from hf_modalbridge.training import (
    RevisionConfig,
    build_config,
    held_out_loss,
    run_revision,
    run_stage1,
    run_stage2,
)
from hf_modalbridge.training import unpaired as recipes
from hf_modalbridge.training.assembly import assemble_stage1, assemble_stage2


def configured(world, output, **stages) -> RevisionConfig:
    return build_config(RevisionConfig, recipe(world, output, **stages))


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    config = configured(
        world,
        tmp_path_factory.mktemp("run"),
        stage1={"warm_start": {"ridge": 0.5}},
        stage2={"loop": {"save_steps": 4}},
    )
    return config, run_revision(config)


def test_stage1_trains_the_connector_only(run, world):
    config, results = run
    trained = load_file(results["stage1"].training.checkpoint / "trained.safetensors")
    assert {name.split(".")[1] for name in trained} == {"connectors"}
    model = AutoModel.from_pretrained(results["stage1"].model_dir)
    base = AutoModelForCausalLM.from_pretrained(world.language_model)
    for name, weight in base.state_dict().items():
        assert torch.equal(model.model.language_model.state_dict()[name], weight), name
    rows = results["stage1"].training.rows
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_the_product_has_the_held_out_loss_of_the_training(run, world):
    config, results = run
    for stage in ("stage1", "stage2"):
        assert results[stage].training.held_out_loss > 0
    model = AutoModel.from_pretrained(results["stage1"].model_dir)
    processor = AutoProcessor.from_pretrained(results["stage1"].model_dir)
    order = np.random.default_rng([0, 96]).permutation(96)[:8]
    data = CaptionDataset(EmbeddingStore.open(world.text_store), processor, "image", rows=np.sort(order))
    loss = held_out_loss(model, data, BridgeCollator(processor), 3)
    assert loss == pytest.approx(results["stage1"].training.held_out_loss, rel=1e-6)


def test_stage2_merges_lora_and_keeps_the_connector(run, world):
    config, results = run
    checkpoint = results["stage2"].training.checkpoint / "trained.safetensors"
    trained = load_file(checkpoint)
    assert any("lora_A" in name for name in trained) and any("connectors" in name for name in trained)
    model = AutoModel.from_pretrained(results["stage2"].model_dir)
    merged = model.state_dict()
    assert not any("lora" in name for name in merged)
    base = AutoModelForCausalLM.from_pretrained(world.language_model).state_dict()
    layer = "model.layers.0.self_attn.q_proj"
    a, b = (trained[f"model.language_model.{layer}.lora_{k}.default.weight"] for k in "AB")
    expected = base[f"{layer}.weight"] + (4 / 2) * b @ a
    torch.testing.assert_close(merged[f"model.language_model.{layer}.weight"], expected)
    assert not torch.equal(expected, base[f"{layer}.weight"])
    name = "model.connectors.image.projector.linear_2.weight"
    assert torch.equal(merged[name], trained[name])
    before = load_file(results["stage1"].training.checkpoint / "trained.safetensors")
    assert 0 < (merged[name] - before[name]).abs().max() < 0.1  # stage 2 began where stage 1 ended


def test_a_finished_recipe_is_not_run_again(run, monkeypatch):
    config, results = run
    monkeypatch.setattr(recipes, "warm_start_connector", None)
    stamps = {p: p.stat().st_mtime_ns for r in results.values() for p in r.model_dir.rglob("*")}
    again = run_revision(config)
    assert [r["loss"] for r in again["stage2"].training.rows] == [r["loss"] for r in results["stage2"].training.rows]
    assert {p: p.stat().st_mtime_ns for r in again.values() for p in r.model_dir.rglob("*")} == stamps


def test_a_model_directory_can_be_tuned_further(run, tmp_path, world):
    _, results = run
    start = str(results["stage1"].model_dir)
    config = configured(world, tmp_path, stage1=None, stage2={"start_from": start, "language_model": "full"})
    result = run_stage2(config)
    trained = load_file(result.training.checkpoint / "trained.safetensors")
    assert "model.language_model.model.layers.0.mlp.up_proj.weight" in trained
    model = AutoModel.from_pretrained(result.model_dir)
    for name, tensor in trained.items():
        assert torch.equal(model.state_dict()[name], tensor)
    # the tied head is not saved apart from the embeddings, and is tied again
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_c3_noise_is_drawn_anew_each_step_and_not_at_evaluation(world, tmp_path):
    values = recipe(world, tmp_path, stage1={"loop": {"learning_rate": 0.0, "max_steps": 24, "eval_steps": 12}})
    values["bridge"]["correction"] = str(world.c3)
    values["stage1"]["loop"] |= {
        "per_device_batch_size": 88,
        "gradient_accumulation_steps": 1,
        "save_steps": 0,
    }
    result = run_stage1(build_config(RevisionConfig, values)).training
    losses = [row["loss"] for row in result.rows]
    assert len(set(losses)) == 24  # the same rows and the same weights every time
    held = [row["held_out_loss"] for row in result.rows if "held_out_loss" in row]
    assert len(held) == 2 and held[0] == held[1]


def test_paired_embeddings_go_round_the_correction(world, tmp_path):
    config = configured(world, tmp_path, stage1={"store": str(world.image_store), "embeddings": "modality"})
    bridge = assemble_stage1(config, DIM)
    data = CaptionDataset(EmbeddingStore.open(world.image_store), bridge.processor, "image", kind="embeds")
    result = run_stage1(config).training
    assert result.rows[-1]["loss"] < result.rows[0]["loss"]
    assert "embeds" in data[0]["items"]["image"]


def test_no_encoder_in_memory_and_nothing_else_trains(world, tmp_path):
    config = configured(world, tmp_path)
    config.bridge.encoder = str(tmp_path / "there-is-none")  # would raise if it were loaded
    bridge = assemble_stage1(config, DIM)
    assert len(bridge.model.model.encoders) == 0
    connector = sum(p.numel() for p in bridge.model.model.connectors.parameters())
    assert sum(p.numel() for p in bridge.model.parameters() if p.requires_grad) == connector
    bridge = assemble_stage2(config, DIM, None)
    lora = 2 * sum(  # rank 2: inputs + outputs of every linear layer but the head
        m.in_features + m.out_features
        for n, m in AutoModelForCausalLM.from_pretrained(world.language_model).named_modules()
        if isinstance(m, torch.nn.Linear) and n != "lm_head"
    )
    assert sum(p.numel() for p in bridge.model.parameters() if p.requires_grad) == connector + lora


def test_gradient_checkpointing_changes_nothing(world, tmp_path):
    losses = []
    for on in (False, True):
        config = configured(world, tmp_path / str(on), stage1={"loop": {"gradient_checkpointing": on, "max_steps": 3}})
        losses.append([row["loss"] for row in run_stage1(config).training.rows])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_another_correction_is_refused_by_name(run, world):
    config, _ = run
    values = recipe(world, config.output_dir, stage1={"warm_start": {"ridge": 0.5}})
    values["bridge"]["correction"] = str(world.c3)
    with pytest.raises(ValueError, match="correction_type: checkpoint 'realign', this run 'c3'"):
        run_stage1(build_config(RevisionConfig, values))
    values = recipe(world, config.output_dir, stage1={"warm_start": {"ridge": 0.5}})
    values["bridge"]["num_tokens"] = 3
    with pytest.raises(ValueError, match="num_tokens: checkpoint 2, this run 3"):
        run_stage1(build_config(RevisionConfig, values))


def test_a_store_of_another_width_or_encoder_is_refused(world, tmp_path):
    def store(name: str, dim: int, encoder: dict | None = None) -> str:
        rows = np.eye(dim, dtype=np.float32)
        with EmbeddingStoreWriter(tmp_path / name, dim=dim, dtype="float32", encoder=encoder) as writer:
            writer.append([str(i) for i in range(dim)], rows, {"text": ["a chair"] * dim})
        return str(tmp_path / name)

    with pytest.raises(ValueError, match="width"):
        run_stage1(configured(world, tmp_path / "out", stage1={"store": store("wide", DIM + 1)}))
    fingerprint = {
        "id": "org/a",
        "revision": None,
        "modality": "text",
        "dim": DIM,
        "normalized": True,
        "probe": [0.1] * 8,
    }
    a = store("a", DIM, fingerprint)
    from hf_modalbridge.corrections import ReAlign

    ReAlign.fit(EmbeddingStore.open(a), EmbeddingStore.open(a)).save_pretrained(tmp_path / "correction")
    other = store("b", DIM, {**fingerprint, "id": "org/b", "probe": [0.9] * 8})
    values = recipe(world, tmp_path / "out", stage1={"store": other, "held_out_rows": 0})
    values["bridge"]["correction"] = str(tmp_path / "correction")
    with pytest.raises(ValueError, match="org/a.*org/b"):
        run_stage1(build_config(RevisionConfig, values))


def test_text_without_correction_is_refused(world, tmp_path):
    values = recipe(world, tmp_path)
    values["bridge"]["correction"] = None
    with pytest.raises(ValueError, match="bridge.correction is missing"):
        run_stage1(build_config(RevisionConfig, values))


def test_frozen_language_model_and_chats_without_items_are_refused(world, tmp_path):
    lines = world.chats.read_text().splitlines()
    text_only = {
        "id": "t",
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a chair"}],
    }
    (tmp_path / "chats.jsonl").write_text("\n".join([*lines, json.dumps(text_only)]))
    changes = {"chats": str(tmp_path / "chats.jsonl"), "held_out_rows": 0}
    with pytest.raises(ValueError, match="'frozen'"):
        run_stage2(configured(world, tmp_path / "a", stage2={**changes, "language_model": "frozen"}))
    result = run_stage2(configured(world, tmp_path / "b", stage2={**changes, "loop": {"per_device_batch_size": 1}}))
    assert result.training.steps == 6


def test_a_recipe_without_stages_is_refused(world, tmp_path):
    with pytest.raises(ValueError, match="neither 'stage1' nor 'stage2'"):
        run_revision(configured(world, tmp_path, stage1=None, stage2=None))
