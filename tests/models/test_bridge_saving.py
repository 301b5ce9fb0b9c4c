from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_bridges import ask, make_bridge, make_correction, make_lm, make_tokenizer, vectors
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor

from hf_modalbridge import (
    AutoCorrection,
    ModalBridgeForConditionalGeneration,
    ModalBridgeModel,
    ModalBridgeProcessor,
)


def with_correction(name="llama", kind="ReAlign", **kwargs):
    fields = {"image": {"correction": make_correction(kind), "num_tokens": 2, "constant_prompt": 1}}
    return make_bridge(name, modalities=fields, **kwargs)


def batch_of(processor, items=2):
    return processor.plain(["a red chair", "a dog"][:items], "image", embeds=vectors(items))


def nothing_amiss(info):
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"]), info


@pytest.mark.parametrize("name", ["llama", "llama_tied", "gpt2", "gemma2"])
def test_reloaded_model_is_the_same(tmp_path, name):
    model, processor = with_correction(name)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    nothing_amiss(info)
    assert type(loaded) is ModalBridgeForConditionalGeneration
    own, other = model.state_dict(), loaded.state_dict()
    assert own.keys() == other.keys()
    for key, value in own.items():
        assert torch.equal(value, other[key]) and value.dtype == other[key].dtype, key
    batch = batch_of(AutoProcessor.from_pretrained(tmp_path))
    torch.testing.assert_close(loaded(**batch).loss, model(**batch).loss, rtol=0, atol=0)
    assert loaded.generation_config.suppress_tokens == model.config.placeholder_token_ids
    tied = loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    assert tied == (name != "llama")


def test_names_in_the_files_do_not_change_when_a_loaded_model_is_saved_again(tmp_path):
    model, _ = with_correction()
    model.save_pretrained(tmp_path / "a")
    AutoModel.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    for folder in "ab":
        index = json.loads((tmp_path / folder / "model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == model.state_dict().keys()


def test_statistics_lie_alone_in_a_shard_that_the_index_names(tmp_path):
    model, _ = with_correction()
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    weight_map = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    with safe_open(tmp_path / "correction.safetensors", "pt") as file:
        keys = set(file.keys())
    assert (
        keys == {k for k in weight_map if ".corrections." in k} == {k for k in model.state_dict() if "corrections" in k}
    )
    assert all((weight_map[k] == "correction.safetensors") == (k in keys) for k in weight_map)
    alone = AutoCorrection.from_pretrained(tmp_path, modality="image")
    x = vectors(4)
    torch.testing.assert_close(alone(x), model.imagine("image", x))


def test_large_models_keep_their_shards_and_a_second_save_leaves_nothing_of_the_first(tmp_path):
    model, _ = with_correction()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    nothing_amiss(AutoModel.from_pretrained(tmp_path, output_loading_info=True)[1])
    model.save_pretrained(tmp_path)
    assert [f.name for f in tmp_path.glob("model-*")] == ["model-00001-of-00001.safetensors"]
    plain, processor = make_bridge()
    plain.save_pretrained(tmp_path)
    assert sorted(f.name for f in tmp_path.glob("*.safetensors*")) == ["model.safetensors"]
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    nothing_amiss(info)
    torch.testing.assert_close(loaded(**batch_of(processor)).loss, plain(**batch_of(processor)).loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_keep_their_precision_in_half_precision_models(tmp_path, dtype):
    model, processor = with_correction()
    model.save_pretrained(tmp_path)
    expected = {k: v for k, v in model.state_dict().items() if "corrections" in k}
    assert {v.dtype for v in expected.values()} == {torch.float64}
    loaded = AutoModel.from_pretrained(tmp_path, dtype=dtype)
    for half in (loaded, AutoModel.from_pretrained(tmp_path).to(dtype)):
        assert {p.dtype for p in half.parameters()} == {dtype}
        for key, value in half.state_dict().items():
            if key in expected:
                assert value.dtype == torch.float64 and torch.equal(value, expected[key]), key
        logits = half(**batch_of(processor)).logits
        assert logits.isfinite().all()
    loaded.save_pretrained(tmp_path / "half")
    again = AutoModel.from_pretrained(tmp_path / "half")
    assert again.dtype == dtype
    assert torch.equal(
        again.state_dict()["model.corrections.image.target_mean"],
        expected["model.corrections.image.target_mean"],
    )


def test_low_precision_follows_the_language_model_also_when_the_connector_trains_in_float32(tmp_path):
    model, processor = with_correction(language_model=make_lm().to(torch.bfloat16))
    model.model.connectors.float()
    model(**batch_of(processor)).loss.backward()
    model.save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).language_model.dtype == torch.bfloat16


def test_all_auto_classes_give_the_model_that_generates(tmp_path):
    with_correction()[0].save_pretrained(tmp_path)
    for auto in (AutoModelForCausalLM, AutoModelForMultimodalLM):
        assert type(auto.from_pretrained(tmp_path)) is ModalBridgeForConditionalGeneration
    body, info = ModalBridgeModel.from_pretrained(tmp_path, output_loading_info=True)
    nothing_amiss(info)
    assert type(body) is ModalBridgeModel
    body.save_pretrained(tmp_path / "body")
    whole, info = AutoModelForCausalLM.from_pretrained(tmp_path / "body", output_loading_info=True)
    nothing_amiss(info)
    assert all(torch.equal(v, whole.state_dict()[f"model.{k}"]) for k, v in body.state_dict().items())


def test_a_missing_statistic_is_an_error_not_garbage(tmp_path):
    with_correction()[0].save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "correction.safetensors")
    tensors.pop("model.corrections.image.source_mean")
    save_file(tensors, tmp_path / "correction.safetensors", metadata={"format": "pt"})
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    index["weight_map"].pop("model.corrections.image.source_mean")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="1 are missing .*source_mean"):
        AutoModel.from_pretrained(tmp_path)


def test_a_checkpoint_of_another_model_is_refused_in_one_paragraph(tmp_path):
    model, _ = make_bridge(modalities={"image": {"embedding_dim": 9}})
    model.save_pretrained(tmp_path)
    other, _ = make_bridge(modalities={"image": {"embedding_dim": 12}})
    with pytest.raises(ValueError, match=r"\(\d+, 9\) in the file, \(\d+, 12\) in the model") as error:
        AutoModel.from_pretrained(tmp_path, config=other.config)
    assert "\n" not in str(error.value)
    touch, _ = make_bridge(modalities={"touch": {"embedding_dim": 9}})
    with pytest.raises(
        ValueError, match=r"are missing \(model.connectors.touch.*have no place \(model.connectors.image"
    ):
        AutoModel.from_pretrained(tmp_path, config=touch.config)


def test_bridge_only_fetches_the_base_and_is_the_same_model(tmp_path):
    make_lm("llama_tied").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model, processor = with_correction(language_model=base)
    with torch.no_grad():  # as if the connector had been trained
        for parameter in model.model.connectors.parameters():
            parameter.mul_(1.5)
    model.save_pretrained(tmp_path / "bridge", bridge_only=True)
    processor.save_pretrained(tmp_path / "bridge")
    names = {f.name for f in (tmp_path / "bridge").glob("*.safetensors*")}
    assert names == {"bridge.safetensors", "correction.safetensors", "model.safetensors.index.json"}
    assert sum(f.stat().st_size for f in (tmp_path / "bridge").glob("*.safetensors")) < 40_000

    loaded, info = AutoModel.from_pretrained(tmp_path / "bridge", output_loading_info=True)
    nothing_amiss(info)
    own, other = model.state_dict(), loaded.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[k], other[k]) for k in own)  # the placeholder's new row among them
    assert loaded.generation_config.suppress_tokens == model.config.placeholder_token_ids
    batch = batch_of(AutoProcessor.from_pretrained(tmp_path / "bridge"))
    torch.testing.assert_close(loaded(**batch).loss, model(**batch).loss)
    assert AutoCorrection.from_pretrained(tmp_path / "bridge").is_fitted

    half = AutoModel.from_pretrained(tmp_path / "bridge", dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half.model.corrections["image"].target_mean.dtype == torch.float64

    loaded.save_pretrained(tmp_path / "whole")  # what was fetched is saved with it
    nothing_amiss(AutoModel.from_pretrained(tmp_path / "whole", output_loading_info=True)[1])
    loaded.model.save_pretrained(tmp_path / "bridge2", bridge_only=True)
    again = AutoModel.from_pretrained(tmp_path / "bridge2").state_dict()
    assert all(torch.equal(own[k], again[k]) for k in own)


def test_bridge_only_refuses_to_lose_what_was_trained(tmp_path):
    with pytest.raises(ValueError, match="names no id"):
        with_correction()[0].save_pretrained(tmp_path, bridge_only=True)
    make_lm().save_pretrained(tmp_path / "base")
    model, _ = with_correction(language_model=AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    model.save_pretrained(tmp_path / "bridge", bridge_only=True)
    with torch.no_grad():
        model.language_model.model.layers[0].self_attn.q_proj.weight.add_(1e-4)
    before = (tmp_path / "bridge" / "bridge.safetensors").read_bytes()
    with pytest.raises(ValueError, match="was trained.*save the model whole"):
        model.save_pretrained(tmp_path / "bridge", bridge_only=True)
    assert (tmp_path / "bridge" / "bridge.safetensors").read_bytes() == before
    make_lm(seed=5).save_pretrained(tmp_path / "base")  # somebody replaces the base
    with pytest.raises(ValueError, match="does not have the weights on which the bridge"):
        AutoModel.from_pretrained(tmp_path / "bridge")


def test_parts_that_do_not_belong_together_are_refused():
    correction = make_correction(dim=9)
    with pytest.raises(ValueError, match="embedding_dim 12, but its correction is for width 9"):
        make_bridge(modalities={"image": {"correction": correction, "embedding_dim": 12}})
    with pytest.raises(ValueError, match="unknown key.*'num_token'"):
        make_bridge(modalities={"image": {"embedding_dim": 9, "num_token": 2}})
    with pytest.raises(ValueError, match="no statistics yet"):
        make_bridge(modalities={"image": {"correction": type(correction)(9)}})


@pytest.mark.parametrize("kind", ["NoCorrection", "MeanShift", "C3", "ReAlign"])
def test_items_go_through_the_correction_and_its_standardisation(kind):
    model, _ = with_correction(kind=kind)
    correction, connector = model.model.corrections["image"], model.model.connectors["image"]
    x = vectors(3)
    real = connector(correction.standardize(correction.transform_target(x)))
    torch.testing.assert_close(model.get_modality_features("image", embeds=x), real)
    text = connector(correction.standardize(correction(x)))
    torch.testing.assert_close(model.get_modality_features("image", imagine_embeds=x), text)
    torch.testing.assert_close(model.imagine("image", x), correction(x))
    batch = ModalBridgeProcessor.plain(make_bridge()[1], ["a dog"], "image", imagine_embeds=x[:1])
    assert set(batch["modality_inputs"]["image"]) == {"imagine_embeds"}


def test_generation_after_reload_from_a_chat(tmp_path):
    model, processor = with_correction("gemma2")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, again = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    chats = [ask(vectors(1)[0]), ask(vectors(1, seed=1)[0], "describe the green table")]
    first = model.generate(**processor.apply_chat_template(chats, **options), max_new_tokens=6, do_sample=False)
    second = loaded.generate(**again.apply_chat_template(chats, **options), max_new_tokens=6, do_sample=False)
    assert torch.equal(first, second)
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab() != make_tokenizer().get_vocab()
