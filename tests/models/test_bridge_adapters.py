"""Adapters of a whole bridge, quantised loading, and torch.export of its parts."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from tiny_bridges import make_bridge, make_correction, make_lm, make_point_bridge, make_tokenizer, vectors
from transformers import AutoModel, AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from hf_modalbridge.models.adapters import bridge_lora_config

peft = pytest.importorskip("peft")


def logits(model, processor):
    with torch.inference_mode():
        return model(**processor.plain(["a red chair"], "image", embeds=vectors(1))).logits


def test_an_adapter_is_saved_with_the_connector_loaded_and_merged(tmp_path):
    bridge, processor = make_bridge(modalities={"image": {"correction": make_correction(), "num_tokens": 2}})
    bridge.save_pretrained(tmp_path / "base")
    model = AutoModel.from_pretrained(tmp_path / "base")
    before = logits(model, processor)
    wrapped = peft.get_peft_model(model, bridge_lora_config(model, r=2))
    trained = [name for name, p in wrapped.named_parameters() if p.requires_grad]
    assert any("connectors.image" in n for n in trained) and any("lora_" in n for n in trained)
    assert all("language_model" in n for n in trained if "lora_" in n)
    with torch.no_grad():  # as if both had been trained
        for p in wrapped.parameters():
            if p.requires_grad:
                p.add_(0.05)
    after = logits(wrapped.eval(), processor)
    assert not torch.allclose(before, after)
    wrapped.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(logits(again.eval(), processor), after)
    direct = AutoModel.from_pretrained(tmp_path / "adapter")  # names its base itself
    torch.testing.assert_close(logits(direct.eval(), processor), after)
    merged = again.merge_and_unload()
    torch.testing.assert_close(logits(merged, processor), after, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    whole = AutoModel.from_pretrained(tmp_path / "merged")
    assert whole.state_dict().keys() == bridge.state_dict().keys()
    torch.testing.assert_close(logits(whole, processor), after, rtol=1e-4, atol=1e-4)


def test_an_adapter_of_a_bridge_only_model_is_not_forgotten(tmp_path):
    make_lm("llama").save_pretrained(tmp_path / "lm")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    bridge, processor = make_bridge(language_model=base)
    bridge.save_pretrained(tmp_path / "bridge", bridge_only=True)
    wrapped = peft.get_peft_model(AutoModel.from_pretrained(tmp_path / "bridge"), bridge_lora_config(bridge, r=2))
    with torch.no_grad():
        for p in wrapped.parameters():
            if p.requires_grad:
                p.add_(0.05)
    after = logits(wrapped.eval(), processor)
    wrapped.save_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(logits(AutoModel.from_pretrained(tmp_path / "adapter"), processor), after)


@pytest.mark.parametrize("bits", ["load_in_8bit", "load_in_4bit"])
def test_quantised_loading_passes_through_or_says_what_is_missing(tmp_path, bits):
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4}
    wide = LlamaForCausalLM(LlamaConfig(vocab_size=len(make_tokenizer()), **shape))  # bitsandbytes has blocks of 64
    bridge, processor = make_bridge(language_model=wide.eval())
    bridge.save_pretrained(tmp_path)
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(ImportError, match="bitsandbytes"):
            AutoModel.from_pretrained(tmp_path, quantization_config=BitsAndBytesConfig(**{bits: True}))
        return
    model = AutoModel.from_pretrained(tmp_path, quantization_config=BitsAndBytesConfig(**{bits: True}))
    kinds = {type(m).__name__ for m in model.language_model.modules()}
    assert kinds & {"Linear4bit", "Linear8bitLt"}
    assert type(model.language_model.get_output_embeddings()) is torch.nn.Linear
    quantised = [n for n, m in model.named_modules() if type(m).__name__ in ("Linear4bit", "Linear8bitLt")]
    assert all(name.startswith("model.language_model.") for name in quantised), "the bridge itself stays whole"
    assert logits(model, processor).isfinite().all()


@pytest.mark.parametrize("kind", ["MeanShift", "ReAlign"])
def test_a_correction_is_exported_for_any_number_of_rows(kind):
    correction = make_correction(kind)
    rows = torch.export.Dim("rows", min=1, max=1 << 20)
    program = torch.export.export(correction, (vectors(4),), dynamic_shapes={"source": {0: rows}})
    x = vectors(9, seed=3)
    torch.testing.assert_close(program.module()(x), correction(x))


def test_a_recomposing_connector_is_exported_too():
    connector = make_point_bridge()[0].model.connectors["point"].eval()
    tokens = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))
    items = torch.export.Dim("items", min=1, max=1 << 20)
    program = torch.export.export(connector, (tokens,), dynamic_shapes=({0: items},))
    other = torch.randn(7, 5, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(program.module()(other), connector(other))


@pytest.mark.parametrize("mode", ["repeat", "distinct"])
def test_a_connector_is_exported_for_any_number_of_items(mode):
    bridge, _ = make_bridge(modalities={"image": {"embedding_dim": 12, "num_tokens": 3, "token_mode": mode}})
    connector = bridge.model.connectors["image"].eval()
    items = torch.export.Dim("items", min=1, max=1 << 20)
    program = torch.export.export(connector, (vectors(4),), dynamic_shapes=({0: items},))
    x = vectors(7, seed=3)
    torch.testing.assert_close(program.module()(x), connector(x))
