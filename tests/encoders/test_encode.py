"""One path for every dual encoder: `encode` gives what each family's own forward gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_encoders import make_picture, make_tokenizer
from transformers import SiglipImageProcessorPil

from hf_modalbridge.encoders import encode, encoder_dim, prepare_items, readable_modalities

TEXTS = ["a red bicycle [EOS]", "two of them on the mat [EOS]"]


@torch.no_grad()
def test_clip_embeddings_are_those_of_its_forward(clip, clip_processor):
    pictures = [make_picture(0), make_picture(1)]
    text = prepare_items(clip_processor, "text", TEXTS, clip.config)
    image = prepare_items(clip_processor, "image", pictures, clip.config)
    out = clip(**text, **image)
    torch.testing.assert_close(encode(clip, "text", text), out.text_embeds)
    torch.testing.assert_close(encode(clip, "image", image), out.image_embeds)
    raw = encode(clip, "image", image, normalize=False)
    torch.testing.assert_close(raw / raw.norm(dim=1, keepdim=True), out.image_embeds)
    assert not torch.allclose(raw.norm(dim=1), torch.ones(2))


@torch.no_grad()
def test_siglip_texts_are_padded_to_full_length(siglip):
    tokenizer = make_tokenizer(longest=int(1e9))
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    text = prepare_items(tokenizer, "text", TEXTS, siglip.config)
    assert text["input_ids"].shape == (2, 16)
    image = prepare_items(processor, "image", [make_picture(0)], siglip.config)
    out = siglip(input_ids=text["input_ids"], pixel_values=image["pixel_values"])
    torch.testing.assert_close(encode(siglip, "text", text), out.text_embeds)
    torch.testing.assert_close(encode(siglip, "image", image), out.image_embeds)


@torch.no_grad()
def test_clap_embeds_sound_and_text(clap):
    model, extractor = clap
    sounds = [np.sin(np.arange(4000) * f).astype(np.float32) for f in (0.1, 0.4)]
    audio = prepare_items(extractor, "audio", sounds, model.config)
    text = prepare_items(make_tokenizer(), "text", TEXTS, model.config)
    out = model(**text, input_features=audio["input_features"], is_longer=audio["is_longer"])
    torch.testing.assert_close(encode(model, "audio", audio), out.audio_embeds)
    torch.testing.assert_close(encode(model, "text", text), out.text_embeds)
    with pytest.raises(ValueError, match="16000.*expects 4000 Hz"):
        prepare_items(extractor, "audio", [{"array": sounds[0], "sampling_rate": 16000}])


@torch.no_grad()
def test_dimension_and_modalities_are_read_from_the_config(clip, siglip, clap, dual_encoder):
    clap, extractor = clap
    own, _ = dual_encoder
    tokens = {"input_ids": torch.tensor([[3, 4, 2]])}
    for model, modalities in (
        (clip, {"image", "text"}),
        (siglip, {"image", "text"}),
        (clap, {"audio", "text"}),
    ):
        assert set(readable_modalities(model)) == modalities
        assert encode(model, "text", tokens).shape == (1, encoder_dim(model.config))
        assert encoder_dim(model.config.to_dict()) == encoder_dim(model.config)
    assert encode(own, "text", tokens).shape == (1, encoder_dim(own.config)) == (1, 12)


@torch.no_grad()
def test_bfloat16_model_gives_float32_unit_rows(dual_encoder):
    model, processor = dual_encoder
    inputs = prepare_items(processor, "image", [make_picture(0), make_picture(1)])
    exact = encode(model, "image", inputs)
    rounded = encode(model.to(torch.bfloat16), "image", inputs)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.norm(dim=1), torch.ones(2), atol=1e-6, rtol=0)
    assert torch.cosine_similarity(exact, rounded).min() > 0.99


def test_inputs_that_a_model_does_not_take_are_left_out(clip):
    inputs = {"input_ids": torch.tensor([[3, 4, 2]]), "token_type_ids": torch.zeros(1, 3, dtype=torch.long)}
    alone = encode(clip, "text", {"input_ids": inputs["input_ids"]})
    torch.testing.assert_close(encode(clip, "text", inputs), alone)
    with pytest.raises(ValueError, match="takes none of the inputs.*points"):
        encode(clip, "image", {"points": torch.zeros(1, 3)})


def test_unknown_modality_names_the_known_ones(clip, tokenizer):
    with pytest.raises(ValueError, match="does not read 'audio'.*image, text"):
        encode(clip, "audio", {"input_features": torch.zeros(1)})
    with pytest.raises(ValueError, match="no text items"):
        prepare_items(tokenizer, "text", [])
    with pytest.raises(TypeError, match="int among the texts"):
        prepare_items(tokenizer, "text", ["a", 3])
    with pytest.raises(ValueError, match="prepares no images"):
        prepare_items(tokenizer, "image", [make_picture(0)])


def test_features_with_a_token_axis_are_refused():
    class Tokens(torch.nn.Module):
        def get_image_features(self, pixel_values):
            return pixel_values[:, None].expand(-1, 5, -1)

    with pytest.raises(ValueError, match=r"shape \(2, 5, 3\).*\(items, dim\)"):
        encode(Tokens(), "image", {"pixel_values": torch.ones(2, 3)})
