"""A tiny run for the Space: a random model that reads pictures, clouds and touch, with stores of real pictures."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from tiny_bridges import make_lm, make_tokenizer
from tiny_encoders import make_dual_encoder

from hf_modalbridge import EmbeddingStoreWriter, ModalBridgeForConditionalGeneration, ReAlign
from hf_modalbridge.demo import load_captions
from hf_modalbridge.encoders import (
    PointEncoder,
    PointEncoderConfig,
    PointFeatureExtractor,
    TactileEncoder,
    TactileEncoderConfig,
    TactileFeatureExtractor,
    encode,
    prepare_items,
)

POINT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
TOUCH = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_samples": 40,
}


@torch.no_grad()
def build_run(root: Path, rows: int = 64) -> Path:
    """Write `root/stores` and a model directory, and give the latter."""
    encoder, processor = make_dual_encoder()
    features = encoder.image_tower_features(torch.randn(8, 3, 32, 32))
    encoder.image_head.mean.copy_(features.mean(0))
    encoder.image_head.std.copy_(features.std(0) + 1e-9)
    sides: dict[str, np.ndarray] = {}
    for split in ("test", "train"):
        pictures = load_captions(split)[:rows]
        words = [f"{'red cat' if i % 2 else 'dog on the mat'} {'two' * (i % 3)} {'a ' * (i % 9)}" for i in range(rows)]
        for name, modality, items in (
            ("images", "image", [pictures[i]["image"] for i in range(rows)]),
            ("captions", "text", words),
        ):
            values = encode(encoder, modality, prepare_items(processor, modality, items)).numpy()
            # a random tower gives nearly the same for all texts: spread them, as a trained one would
            values = values + 0.3 * np.random.default_rng(len(sides)).normal(size=values.shape)
            values = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
            sides[f"{name}-{split}"] = values
            with EmbeddingStoreWriter(root / "stores" / f"{name}-{split}", dim=12, dtype="float32") as writer:
                writer.append(pictures.ids, values, {"text": pictures.captions})
    torch.manual_seed(0)
    model, own = ModalBridgeForConditionalGeneration.from_components(
        language_model=make_lm("llama", seed=3),
        tokenizer=make_tokenizer(),
        modalities={
            "image": {
                "encoder": encoder,
                "encoder_processor": processor,
                "correction": ReAlign.fit(sides["captions-train"], sides["images-train"]),
                "num_tokens": 2,
                "constant_prompt": 1,
            },
            "point": {
                "encoder": PointEncoder(PointEncoderConfig(**POINT, num_groups=4, group_size=8)),
                "encoder_processor": PointFeatureExtractor(num_points=64),
                "num_tokens": 2,
            },
            "touch": {
                "encoder": TactileEncoder(TactileEncoderConfig(**TOUCH)),
                "encoder_processor": TactileFeatureExtractor(num_samples=40),
                "num_tokens": 2,
            },
        },
    )
    for connector in model.model.connectors.values():
        for parameter in connector.parameters():
            parameter.mul_(6)  # or a random model says the same about everything
    out = root / "realign" / "stage2" / "model"
    model.save_pretrained(out)
    own.save_pretrained(out)
    return out


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def npy_header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    """A .npy file that claims a shape and holds nothing of it."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(64)


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def bomb(megabytes: int) -> bytes:
    """A zip of zeros that unpacks to so much."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        with archive.open("points.npy", "w") as member:
            member.write(npy_header((megabytes * 1_000_000 // 12, 3))[:-64])
            for _ in range(megabytes):
                member.write(bytes(1_000_000))
    return buffer.getvalue()
