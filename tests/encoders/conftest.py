"""Tiny dual encoders of every family."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import TEXT, VISION, make_dual_encoder, make_tokenizer  # noqa: E402
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

from hf_modalbridge.encoders import DualEncoderModel, DualEncoderProcessor


@pytest.fixture
def clip_processor() -> CLIPProcessor:
    size = {"size": {"height": 32, "width": 32}, "crop_size": {"height": 32, "width": 32}}
    return CLIPProcessor(CLIPImageProcessorPil(**size), make_tokenizer())


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def dual_encoder() -> tuple[DualEncoderModel, DualEncoderProcessor]:
    return make_dual_encoder()


@pytest.fixture(scope="session")
def clip() -> CLIPModel:
    torch.manual_seed(1)
    config = CLIPConfig(
        text_config={
            **TEXT,
            "max_position_embeddings": 16,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "bos_token_id": 1,
        },
        vision_config={**VISION, "image_size": 32, "patch_size": 16},
        projection_dim=24,
    )
    return CLIPModel(config).eval()


@pytest.fixture(scope="session")
def siglip() -> SiglipModel:
    torch.manual_seed(2)
    text = {**TEXT, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = SiglipConfig(text_config=text, vision_config={**VISION, "image_size": 32, "patch_size": 16})
    return SiglipModel(config).eval()


@pytest.fixture(scope="session")
def clap() -> tuple[ClapModel, ClapFeatureExtractor]:
    torch.manual_seed(3)
    extractor = ClapFeatureExtractor(
        feature_size=8,
        sampling_rate=4000,
        max_length_s=1,
        fft_window_size=64,
        hop_length=32,
        frequency_max=2000,
        truncation="rand_trunc",
        padding="repeatpad",
    )
    config = ClapConfig(
        text_config={**TEXT, "max_position_embeddings": 32, "pad_token_id": 0},
        audio_config={
            "hidden_size": 16,
            "num_mel_bins": 8,
            "window_size": 2,
            "spec_size": 32,
            "patch_size": 2,
            "patch_stride": [2, 2],
            "patch_embeds_hidden_size": 8,
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
            "num_hidden_layers": 2,
            "num_classes": 4,
            "enable_fusion": False,
        },
        projection_dim=20,
    )
    return ClapModel(config).eval(), extractor
