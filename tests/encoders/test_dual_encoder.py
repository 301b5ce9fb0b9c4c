"""The dual encoder saves and loads completely, and pools, standardises and scores as it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoders import make_dual_encoder, make_picture, make_tokenizer
from transformers import AutoModel, CLIPProcessor

from hf_modalbridge.encoders import DualEncoderModel, encode, load_encoder, prepare_items

TEXTS = ["a red bicycle beside the wall", "cat", "two of them"]


@pytest.fixture
def saved(dual_encoder, tmp_path):
    model, processor = dual_encoder
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def test_saved_model_and_processor_come_back_the_same(dual_encoder, saved):
    model, processor = dual_encoder
    loaded, loaded_processor = load_encoder(saved)
    _, info = AutoModel.from_pretrained(saved, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert isinstance(loaded, DualEncoderModel) and not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    pictures = [make_picture(i) for i in range(3)]
    for modality, items in (("image", pictures), ("text", TEXTS)):
        want = encode(model, modality, prepare_items(processor, modality, items, model.config))
        got = encode(loaded, modality, prepare_items(loaded_processor, modality, items, loaded.config))
        assert torch.equal(got, want)


def test_new_process_loads_it_without_torchvision(saved):
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "import hf_modalbridge.encoders\n"
        "from transformers import AutoModel, AutoProcessor, AutoImageProcessor\n"
        f"print(type(AutoModel.from_pretrained({str(saved)!r})).__name__, "
        f"type(AutoProcessor.from_pretrained({str(saved)!r})).__name__, "
        f"type(AutoImageProcessor.from_pretrained({str(saved)!r})).__name__)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=300)
    assert done.stdout.split() == [
        "DualEncoderModel",
        "DualEncoderProcessor",
        "EfficientNetLiteImageProcessor",
    ], done.stderr


@torch.no_grad()
def test_head_is_the_formula(dual_encoder):
    model, _ = dual_encoder
    pixels = torch.randn(4, 3, 32, 32)
    features = model.vision_model(pixels).pooler_output
    head = model.image_head
    x = (features - head.mean) / head.std
    hidden = torch.nn.functional.gelu(x @ head.fc1.weight.T + head.fc1.bias)
    want = hidden @ head.fc2.weight.T + head.fc2.bias + x @ head.skip.weight.T
    torch.testing.assert_close(model.get_image_features(pixels), want)


@torch.no_grad()
def test_text_is_pooled_over_real_tokens_only(dual_encoder):
    model, processor = dual_encoder
    batch = encode(model, "text", prepare_items(processor, "text", TEXTS, model.config))
    for text, row in zip(TEXTS, batch, strict=True):
        alone = encode(model, "text", prepare_items(processor, "text", [text], model.config))[0]
        torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-5)
    inputs = prepare_items(processor, "text", TEXTS[:1], model.config)
    states = model.text_model(**inputs).last_hidden_state[0].mean(0)
    torch.testing.assert_close(
        model.text_tower_features(inputs["input_ids"])[0], states / states.norm(), atol=1e-5, rtol=1e-5
    )


def test_loss_is_the_symmetric_cross_entropy(dual_encoder):
    model, processor = dual_encoder
    inputs = processor(images=[make_picture(i) for i in range(3)], text=TEXTS)
    out = model(**inputs, return_loss=True)
    cosines = (out.image_embeds @ out.text_embeds.T).double() * 100
    rows = -torch.log_softmax(cosines, 1).diagonal().mean()
    columns = -torch.log_softmax(cosines, 0).diagonal().mean()
    torch.testing.assert_close(out.loss.double(), (rows + columns) / 2, atol=1e-3, rtol=1e-4)
    with pytest.raises(ValueError, match="neither pixel_values nor input_ids"):
        model()


def test_training_reaches_the_heads_and_leaves_the_towers_alone(dual_encoder):
    model, processor = dual_encoder
    before = {name: buffer.clone() for name, buffer in model.vision_model.named_buffers()}
    model.train()
    assert model.image_head.training and not model.vision_model.training and not model.text_model.training
    inputs = processor(images=[make_picture(i) for i in range(3)], text=TEXTS)
    model(**inputs, return_loss=True).loss.backward()
    assert model.image_head.fc1.weight.grad.abs().sum() > 0 and model.text_head.fc2.weight.grad.abs().sum() > 0
    for name, buffer in model.vision_model.named_buffers():  # the tower's running statistics
        assert torch.equal(buffer, before[name]), name


def test_statistics_keep_their_precision(dual_encoder, saved):
    model, _ = dual_encoder
    mean = model.image_head.mean.clone()
    assert not torch.equal(mean.bfloat16().float(), mean)
    loaded, _ = load_encoder(saved, dtype=torch.bfloat16)
    assert loaded.image_head.fc1.weight.dtype == torch.bfloat16
    for cast in (loaded, model.to(torch.bfloat16), model.half()):
        assert cast.image_head.mean.dtype == torch.float32 and torch.equal(cast.image_head.mean, mean)


def test_checkpoint_with_a_hole_is_refused(saved):
    tensors = load_file(saved / "model.safetensors")
    del tensors["text_head.fc2.weight"]
    save_file(tensors, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 tensors of DualEncoderModel.*text_head.fc2.weight"):
        load_encoder(saved)


@torch.no_grad()
def test_clip_directory_loads_through_the_same_function(clip, clip_processor, tmp_path):
    clip.save_pretrained(tmp_path)
    clip_processor.save_pretrained(tmp_path)
    model, processor = load_encoder(tmp_path)
    assert isinstance(processor, CLIPProcessor)
    inputs = prepare_items(processor, "image", [make_picture(0)], model.config)
    assert torch.equal(encode(model, "image", inputs), encode(clip, "image", inputs))


def test_model_that_embeds_nothing_or_lacks_its_processor_is_refused(dual_encoder, clip, tmp_path):
    model, _ = dual_encoder
    model.text_model.save_pretrained(tmp_path / "bert")
    make_tokenizer().save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="BertModel.*no get_<modality>_features"):
        load_encoder(tmp_path / "bert")
    clip.save_pretrained(tmp_path / "clip")
    make_tokenizer().save_pretrained(tmp_path / "clip")
    with pytest.raises((ValueError, OSError)):
        load_encoder(tmp_path / "clip")


def test_other_seed_gives_other_weights():
    first, _ = make_dual_encoder(0)
    second, _ = make_dual_encoder(1)
    assert not torch.equal(first.image_head.fc1.weight, second.image_head.fc1.weight)


@torch.no_grad()
def test_head_reads_the_picture_at_all_sizes():
    model, processor = make_dual_encoder(vision_scales=(1.0, 0.5))
    pixels = prepare_items(processor, "image", [make_picture(0), make_picture(1)])["pixel_values"]
    half = torch.nn.functional.interpolate(pixels, (16, 16), mode="bicubic", antialias=True)
    tower = model.vision_model.get_image_features
    want = torch.cat([tower(pixel_values=pixels), tower(pixel_values=half)], dim=1)
    torch.testing.assert_close(model.image_tower_features(pixels), want)
    torch.testing.assert_close(model.get_image_features(pixels), model.image_head(want))
