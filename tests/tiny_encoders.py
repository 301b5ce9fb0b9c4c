"""Tiny encoders with random weights, their tokenizer and pictures: nothing comes from outside."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, PreTrainedTokenizerFast

from hf_modalbridge.encoders import (
    DualEncoderConfig,
    DualEncoderModel,
    DualEncoderProcessor,
    EfficientNetLiteConfig,
    EfficientNetLiteImageProcessor,
)

WORDS = "[PAD] [UNK] [EOS] a red bicycle beside wall cat dog on the mat two of them".split()
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 64,
}
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY_TOWER = {
    "image_size": 32,
    "stem_channels": 8,
    "hidden_dim": 24,
    "stage_repeats": [1, 2],
    "stage_kernels": [3, 5],
    "stage_strides": [1, 2],
    "stage_expansions": [1, 2],
    "stage_channels": [8, 8],
}


def make_tokenizer(longest: int = 16) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="[EOS]",
        model_max_length=longest,
    )


def make_picture(seed: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def make_dual_encoder(seed: int = 0, **fields) -> tuple[DualEncoderModel, DualEncoderProcessor]:
    torch.manual_seed(seed)
    config = DualEncoderConfig(
        vision_config=EfficientNetLiteConfig(**TINY_TOWER),
        text_config=BertConfig(**TEXT, max_position_embeddings=64),
        projection_dim=12,
        projection_hidden_size=20,
        **fields,
    )
    model = DualEncoderModel(config).eval()
    model.image_head.mean.uniform_(-1, 1)
    model.image_head.std.uniform_(0.5, 2)
    return model, DualEncoderProcessor(EfficientNetLiteImageProcessor(size=32), make_tokenizer())
