"""Both stages of the pairwise route on a tiny world: products, what trains, sharing, chat, batch independence."""

from __future__ import annotations

import json

import pytest
import torch
from pairwise_world import build_pairwise_world, pairwise_recipe
from transformers import AutoModel, AutoProcessor

from hf_modalbridge.models.conversation import Conversation
from hf_modalbridge.models.pairwise_aligner import PairwiseAligner
from hf_modalbridge.store import EmbeddingStore
from hf_modalbridge.training import build_config
from hf_modalbridge.training.assembly import load_language_model
from hf_modalbridge.training.pairwise import run_pairwise
from hf_modalbridge.training.pairwise_assembly import assemble_bridge, caption_rows
from hf_modalbridge.training.pairwise_config import PairwiseRecipe
from hf_modalbridge.training.pairwise_evaluation import (
    HeldOutItems,
    HeldOutTriples,
    evaluate_aligner,
    evaluate_bridge,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_pairwise_world(tmp_path_factory.mktemp("pairwise"))


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    recipe = build_config(PairwiseRecipe, pairwise_recipe(world, tmp_path_factory.mktemp("run") / "out"))
    return recipe, run_pairwise(recipe)


def test_losses_fall_into_files_and_a_second_call_runs_nothing(finished):
    recipe, results = finished
    for stage in ("stage1", "stage2"):
        lines = (results[stage].model_dir.parent / "losses.jsonl").read_text().splitlines()
        assert len(lines) == 6 and "held_out_loss" in json.loads(lines[-1])
    again = run_pairwise(recipe)
    assert again["stage2"].training.rows == results["stage2"].training.rows


def test_the_product_loads_whole_and_only_what_may_train_has_changed(finished, world):
    recipe, results = finished
    model, report = AutoModel.from_pretrained(results["stage2"].model_dir, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    aligner = PairwiseAligner.from_pretrained(results["stage1"].model_dir)
    language_model, _ = load_language_model(recipe.language_model)
    trained = language_model.state_dict()
    for name, value in model.language_model.state_dict().items():
        assert torch.equal(value[: len(trained[name])], trained[name]), name
    for name in ("point", "image"):
        projector = model.model.connectors[name].projector
        moved = [not torch.equal(a, b) for a, b in zip(projector.parameters(), _start(aligner, name), strict=True)]
        assert sum(moved) > 0.9 * len(moved)
    shared = [model.model.connectors[n].projector.decoders["text"].state_dict() for n in ("point", "image")]
    assert all(torch.equal(shared[0][key], shared[1][key]) for key in shared[0])


def _start(aligner, name):
    return [*aligner.encoders[name].parameters(), *aligner.decoders["text"].parameters()]


def test_gradient_reaches_only_what_may_train_and_the_decoder_is_one(finished):
    recipe, results = finished
    aligner = PairwiseAligner.from_pretrained(results["stage1"].model_dir)
    bridge = assemble_bridge(recipe, aligner, *load_language_model(recipe.language_model))
    connectors = bridge.model.model.connectors
    assert connectors["point"].projector.decoders["text"] is connectors["image"].projector.decoders["text"]
    rows, _ = caption_rows(recipe.graph(), recipe.stage2, bridge.processor)
    from hf_modalbridge.data import BridgeCollator

    batch = BridgeCollator(bridge.processor)([rows[0], rows[1]])  # of the first set: points
    bridge.model(**{k: v for k, v in batch.items() if k != "ids"}).loss.backward()
    reached = {n for n, p in bridge.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached and all(".connectors.point." in name for name in reached)
    assert all(any(part in n for n in reached) for part in ("projector.encoder", "projector.decoders.text"))


def test_without_further_training_the_bridge_reads_what_stage_one_recomposes(finished, world):
    recipe, results = finished
    aligner = PairwiseAligner.from_pretrained(results["stage1"].model_dir)
    bridge = assemble_bridge(recipe, aligner, *load_language_model(recipe.language_model))
    rows = torch.from_numpy(EmbeddingStore.open(world.stores["held-point"])[:3]).float()
    tokens = bridge.model.get_modality_features("point", embeds=rows)
    torch.testing.assert_close(tokens, aligner.recompose("point", "text", rows.view(3, 5, 6)))
    torch.testing.assert_close(tokens, bridge.model.get_modality_features("point", embeds=rows.view(3, 5, 6)))
    with pytest.raises(ValueError, match=r"shape \(3, 24\), expected \(items, 5, 6\), or \(items, 30\)"):
        bridge.model.get_modality_features("point", embeds=rows[:, :24])


def test_a_batch_is_its_items(finished, world):
    _, results = finished
    model = AutoModel.from_pretrained(results["stage2"].model_dir)
    processor = AutoProcessor.from_pretrained(results["stage2"].model_dir)
    rows = EmbeddingStore.open(world.stores["held-point"])[:3]
    chats = [
        [{"role": "user", "content": [{"type": "point", "embedding": row}, {"type": "text", "text": q}]}]
        for row, q in zip(rows, ["What is this?", "What", "a chair?"], strict=True)
    ]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    batch = model(**processor.apply_chat_template(chats, **options)).logits[:, -1]
    for i, chat in enumerate(chats):
        alone = model(**processor.apply_chat_template([chat], **options)).logits[:, -1]
        torch.testing.assert_close(batch[i : i + 1], alone, atol=1e-4, rtol=1e-4)


def test_it_chats_about_a_stored_item_by_singular_or_plural(finished, world):
    _, results = finished
    place = {"store": world.stores["held-point"], "row": 3, "max_new_tokens": 4}
    said = [
        Conversation.open(results["stage2"].model_dir, modality=m, **place).ask("What?") for m in ("point", "points")
    ]
    assert said[0] == said[1]
    with pytest.raises(KeyError, match="no modality 'sound'"):
        Conversation.open(results["stage2"].model_dir, modality="sound", **place)


def test_it_is_evaluated_on_items_and_triples(finished, world):
    _, results = finished
    model = AutoModel.from_pretrained(results["stage2"].model_dir)
    processor = AutoProcessor.from_pretrained(results["stage2"].model_dir)
    items = HeldOutItems("point", str(world.stores["held-point"]), label_column="thing", choices=8)
    found = evaluate_bridge(model, processor, items, "What is this?")
    assert found["choice"]["n"] == 8 and found["labels"]["ways"] == 8
    assert 0 <= found["labels"]["raw"]["low"] <= found["labels"]["raw"]["mean"] <= found["labels"]["raw"]["high"] <= 1
    triples = HeldOutTriples({name: str(world.stores[f"held-{name}"]) for name in ("point", "image")})
    across = evaluate_aligner(PairwiseAligner.from_pretrained(results["stage1"].model_dir), triples)
    assert across["image-point"]["retrieval"]["items"] == 48 and across["image-point"]["retrieval"]["paired"]


def test_stages_can_be_left_out_for_comparison(world, tmp_path):
    values = pairwise_recipe(world, tmp_path / "out", stage1={"skip": True}, stage2={"skip": True})
    results = run_pairwise(build_config(PairwiseRecipe, values))
    model = AutoModel.from_pretrained(results["stage2"].model_dir)
    aligner = PairwiseAligner.from_pretrained(results["stage1"].model_dir)
    own = model.model.connectors["point"].projector.encoder.state_dict()
    assert all(torch.equal(own[key], value) for key, value in aligner.encoders["point"].state_dict().items())


def test_several_surrogates_stand_one_after_the_other(world, tmp_path):
    """A partner whose tokens the language model reads already: here as wide as its token embeddings."""
    import numpy as np

    from hf_modalbridge.store import EmbeddingStoreWriter

    for name in ("point-image-image", "image-text-image"):
        old = EmbeddingStore.open(world.stores[name])
        with EmbeddingStoreWriter(tmp_path / name, dim=24, dtype="float32", normalized=False) as writer:
            wide = np.random.default_rng(0).normal(size=(len(old), 24)).astype(np.float32)
            writer.append(old.ids, wide, {"text": old.column("text"), "item": old.column("item")})
    values = pairwise_recipe(world, tmp_path / "out", stage1={"skip": True}, stage2={"skip": True})
    values["modalities"]["point"]["surrogates"] = ["text", "image"]
    with pytest.raises(ValueError, match="the tokens of 'image' are 7 wide, but the language model reads 24"):
        run_pairwise(build_config(PairwiseRecipe, values))
    values["output_dir"] = str(tmp_path / "wide")
    values["pairs"][1]["stores"]["image"] = str(tmp_path / "image-text-image")
    values["pairs"][2]["stores"]["image"] = str(tmp_path / "point-image-image")
    results = run_pairwise(build_config(PairwiseRecipe, values))
    model = AutoModel.from_pretrained(results["stage2"].model_dir)
    aligner = PairwiseAligner.from_pretrained(results["stage1"].model_dir)
    x = torch.randn(2, 5, 6)
    tokens = model.get_modality_features("point", embeds=x)
    assert tokens.shape == (2, 7, 24)
    expected = [aligner.recompose("point", partner, x) for partner in ("text", "image")]
    torch.testing.assert_close(tokens, torch.cat(expected, 1))
