"""Tiny language models, tokenizers and bridges, made on the spot."""

from __future__ import annotations

import copy

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from hf_modalbridge import ModalBridgeForConditionalGeneration

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LINES = [
    "a red chair stands on the floor",
    "what is this? a dog, and a small cat.",
    "the table is green and round",
    "describe the picture in a few words",
]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
# init at 0.3: with the usual 0.02 a tiny model's logits hardly depend on its input, and equal tokens prove little
SHAPE = {**SIZES, "num_key_value_heads": 2, "initializer_range": 0.3, "max_position_embeddings": 256}
LM_NAMES = ("llama", "llama_tied", "gpt2", "qwen2", "gemma2")


def _train_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<pad>", "<unused>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        LINES, trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<pad>")
    tokenizer.chat_template = CHATML
    return tokenizer


_TOKENIZER = _train_tokenizer()


def make_tokenizer() -> PreTrainedTokenizerFast:
    return copy.deepcopy(_TOKENIZER)


def make_lm(name: str = "llama", vocab_size: int | None = None, seed: int = 0, **kwargs):
    torch.manual_seed(seed)
    ids = {
        "vocab_size": vocab_size or len(_TOKENIZER),
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    if name == "gpt2":
        config = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.3, **ids, **kwargs)
        return GPT2LMHeadModel(config).eval()
    if name == "gemma2":
        config = Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=3.0, **ids, **kwargs)
        return Gemma2ForCausalLM(config).eval()
    if name == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**SHAPE, **ids, **kwargs)).eval()
    tied = name == "llama_tied"
    return LlamaForCausalLM(LlamaConfig(**SHAPE, **ids, tie_word_embeddings=tied, **kwargs)).eval()


def make_bridge(name: str = "llama", modalities: dict | None = None, **kwargs):
    modalities = modalities or {"image": {"embedding_dim": 12, "num_tokens": 2, "constant_prompt": 1}}
    return ModalBridgeForConditionalGeneration.from_components(
        language_model=kwargs.pop("language_model", None) or make_lm(name),
        tokenizer=make_tokenizer(),
        modalities=modalities,
        **kwargs,
    )


def vectors(items: int, dim: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(items, dim, generator=torch.Generator().manual_seed(seed))


def ask(embedding, question: str = "what is this?", modality: str = "image") -> list[dict]:
    item = {"type": modality} if embedding is None else {"type": modality, "embedding": embedding}
    return [{"role": "user", "content": [item, {"type": "text", "text": question}]}]


def make_correction(kind: str = "ReAlign", dim: int = 12, seed: int = 0):
    """Fit on two anisotropic clouds apart from each other."""
    import hf_modalbridge

    source, target = (
        vectors(200, dim, seed) + 0.8,
        vectors(300, dim, seed + 1) * torch.linspace(0.5, 2, dim) - 0.6,
    )
    return getattr(hf_modalbridge, kind).fit(source, target)


def make_clip():
    """A random CLIP of width 12 and its processor, which needs no torchvision."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

    torch.manual_seed(7)
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    vocab = {
        "vocab_size": len(_TOKENIZER),
        "bos_token_id": 0,
        "eos_token_id": 1,
        "max_position_embeddings": 32,
    }
    config = CLIPConfig(
        text_config={**tower, **vocab},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=12,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return CLIPModel(config).eval(), CLIPProcessor(image_processor=images, tokenizer=make_tokenizer())


def make_point_encoder(seed: int = 0):
    """A random point encoder, five tokens of width 8 a cloud, and its feature extractor."""
    from hf_modalbridge.encoders import PointEncoder, PointEncoderConfig, PointFeatureExtractor

    torch.manual_seed(seed)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = PointEncoderConfig(**shape, num_groups=4, group_size=8, initializer_range=0.3)
    return PointEncoder(config).eval(), PointFeatureExtractor(num_points=64)


def make_point_bridge(point: dict | None = None, **kwargs):
    """A bridge that reads clouds by recomposition, as `recipes/train_pairwise.py` makes it, and corrected pictures."""
    encoder, extractor = make_point_encoder()
    sizes = {"width": 16, "num_latents": 3, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "ff_mult": 2}
    point = (point or {}) | {
        "encoder": encoder,
        "encoder_processor": extractor,
        "embedding_dim": 8,
        "input_tokens": 5,
        "num_tokens": 4,
        "connector_type": "recompose",
        "connector_config": {**sizes, "surrogates": [{"partner": "text", "num_tokens": 4, "active": 12}]},
        "normalize": False,
    }
    image = {"correction": make_correction(), "num_tokens": 2}
    return make_bridge(modalities={"point": point, "image": image}, **kwargs)


def make_cloud(seed: int = 0, points: int = 80) -> torch.Tensor:
    return torch.randn(points, 3, generator=torch.Generator().manual_seed(seed))
