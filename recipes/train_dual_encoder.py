"""Train the heads of the demo's dual encoder on the train split of demo_data/.

    python recipes/train_dual_encoder.py

makes `hf_modalbridge/demo/dual_encoder_heads.safetensors` again (about 8 minutes for the towers' features, once,
and 1 minute for the heads, on two CPU cores). Both towers stay frozen: EfficientNet-Lite0 features of pictures at
224 and at 160 px and mean-pooled unit MiniLM sentences (the captions with their keywords) go through two heads (an MLP
beside a linear map) into 256 dimensions,
trained with CLIP's symmetric loss at a logit scale held at 100, which leaves a modality gap of CLIP's kind (a
learned scale closes it at this size). Choices were made on the validation split; the test split is only printed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from hf_modalbridge import demo
from hf_modalbridge.encoders import ProjectionHead, encode, prepare_items
from hf_modalbridge.encoders.dual_encoder import rescale_pixels

IMAGE_SIZES = (224, 160)  # what EfficientNet-Lite0 was trained on, and the size of the demo's pictures


@torch.inference_mode()
def tower_features(split: str, data_dir: str | None, cache: Path, batch_size: int = 32) -> dict[str, np.ndarray]:
    """Compute a split's tower features, or read them from the cache if they are of the same data and towers."""
    rows = demo.load_captions(split, data_dir)
    towers = f"{demo.image_tower().name} {demo.sentence_tower().name} {IMAGE_SIZES}"
    texts_of = rows.descriptions
    pictures = [picture["bytes"] for picture in rows.table["image"].to_pylist()]
    digest = hashlib.sha256(towers.encode())
    for text, picture in zip(texts_of, pictures, strict=True):
        digest.update(text.encode() + b"\0" + picture)
    file = cache / f"{split}-{digest.hexdigest()[:12]}.npz"
    if file.is_file():
        return dict(np.load(file, allow_pickle=False))

    image_model = AutoModel.from_pretrained(demo.image_tower()).eval()
    size = {"height": IMAGE_SIZES[0], "width": IMAGE_SIZES[0]}
    image_processor = AutoImageProcessor.from_pretrained(demo.image_tower(), size=size)
    images = []
    for start in tqdm(range(0, len(rows), batch_size), desc=f"{split}: pictures", unit="batch"):
        pixels = prepare_items(image_processor, "image", pictures[start : start + batch_size])["pixel_values"]
        scaled = [rescale_pixels(pixels, size / IMAGE_SIZES[0]) for size in IMAGE_SIZES]
        parts = [encode(image_model, "image", {"pixel_values": x}, normalize=False) for x in scaled]
        images.append(torch.cat(parts, dim=-1).half().numpy())
    text_model = AutoModel.from_pretrained(demo.sentence_tower()).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo.sentence_tower())
    tokenizer.model_max_length = 256
    order = np.argsort([len(text) for text in texts_of], kind="stable")  # little padding
    texts = np.empty((len(rows), text_model.config.hidden_size), dtype=np.float16)
    for start in tqdm(range(0, len(rows), 64), desc=f"{split}: captions", unit="batch"):
        picked = order[start : start + 64]
        inputs = prepare_items(tokenizer, "text", [texts_of[i] for i in picked], text_model.config)
        states = text_model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        texts[picked] = nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).half().numpy()
    features = {
        "image_features": np.concatenate(images),
        "text_features": texts,
        "ids": np.array(rows.ids),
        "captions": np.array(rows.captions),
    }
    cache.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial.npz")
    np.savez(partial, **features)
    partial.replace(file)
    return features


class Heads(nn.Module):
    """The two heads, with the parameter names of `DualEncoderModel`."""

    def __init__(self, image_dim: int, text_dim: int, hidden: int, dim: int, dropout: float):
        super().__init__()
        self.image_head = ProjectionHead(image_dim, hidden, dim, dropout)
        self.text_head = ProjectionHead(text_dim, hidden, dim, dropout)

    def forward(self, images: torch.Tensor, texts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Project both sides to unit rows (items, dim)."""
        return (
            nn.functional.normalize(self.image_head(images), dim=-1),
            nn.functional.normalize(self.text_head(texts), dim=-1),
        )


def train_heads(train: dict[str, np.ndarray], options: argparse.Namespace) -> Heads:
    """Train the heads on a split's features with the symmetric contrastive loss."""
    torch.manual_seed(options.seed)
    images = torch.from_numpy(train["image_features"]).float()
    texts = torch.from_numpy(train["text_features"]).float()
    # pairs that share a caption are no negatives of each other
    _, caption_ids = np.unique(train["captions"], return_inverse=True)
    captions = torch.from_numpy(caption_ids)
    heads = Heads(images.shape[1], texts.shape[1], options.hidden_size, options.dim, options.dropout)
    heads.image_head.mean.copy_(images.mean(0))
    heads.image_head.std.copy_(images.std(0).clamp_min(1e-6))
    optimizer = torch.optim.AdamW(heads.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    batches = max(len(images) // options.batch_size, 1)
    total = batches * options.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / total)))
    generator = torch.Generator().manual_seed(options.seed)
    heads.train()
    bar = tqdm(range(options.epochs), desc="heads", unit="epoch")
    for _ in bar:
        order = torch.randperm(len(images), generator=generator)
        for index in range(batches):
            rows = order[index * options.batch_size : (index + 1) * options.batch_size]
            a, b = heads(images[rows], texts[rows])
            logits = options.logit_scale * a @ b.T
            same = captions[rows][:, None] == captions[rows][None, :]
            same.fill_diagonal_(False)
            logits = logits.masked_fill(same, -torch.inf)
            target = torch.arange(len(rows))
            loss = (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    return heads.eval()


@torch.inference_mode()
def evaluate_heads(heads: Heads, split: dict[str, np.ndarray]) -> dict[str, float]:
    """Measure retrieval (a hit is the picture's own caption or one of the very same words) and the gap."""
    images, texts = heads(
        torch.from_numpy(split["image_features"]).float(), torch.from_numpy(split["text_features"]).float()
    )
    similar = images @ texts.T
    _, ids = np.unique(split["captions"], return_inverse=True)
    right = torch.from_numpy(ids)[:, None] == torch.from_numpy(ids)[None, :]
    # rank of the best right answer among the wrong ones
    best = similar.masked_fill(~right, -2).amax(1, keepdim=True)
    ranks = ((similar > best) & ~right).sum(1)
    # chance that the own caption beats nine others drawn at random, with replacement
    beaten = ((similar < similar.diagonal()[:, None]) & ~right).sum(1) / (~right).sum(1)
    result = {f"R@{k}": (ranks < k).float().mean().item() for k in (1, 5, 10)}
    result["choice_of_10"] = (beaten**9).mean().item()
    result["gap"] = (images.mean(0) - texts.mean(0)).norm().item()
    result["pair_cosine"] = (images * texts).sum(1).mean().item()
    result["image_mean_norm"] = images.mean(0).norm().item()
    result["text_mean_norm"] = texts.mean(0).norm().item()
    return {name: round(value, 4) for name, value in result.items()}


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder with captions/ (default: the repository's demo_data)")
    parser.add_argument("--output", type=Path, default=demo.HEADS_FILE, help="safetensors file to write")
    parser.add_argument("--features-dir", type=Path, default=None, help="cache of tower features")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=1.0)
    parser.add_argument("--dropout", type=float, default=0.6)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--logit-scale", type=float, default=100.0)
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    cache = options.features_dir or demo.cache_dir() / "features"
    features = {split: tower_features(split, options.data_dir, cache) for split in ("train", "validation", "test")}
    heads = train_heads(features["train"], options)
    figures = {split: evaluate_heads(heads, features[split]) for split in ("validation", "test")}
    for split, values in figures.items():
        print(split, len(features[split]["ids"]), json.dumps(values))
    config = {
        "projection_dim": options.dim,
        "projection_hidden_size": options.hidden_size,
        "projection_dropout": options.dropout,
        "logit_scale": options.logit_scale,
        "vision_scales": [size / IMAGE_SIZES[0] for size in IMAGE_SIZES],
        "image_size": IMAGE_SIZES[0],
    }
    recipe = {name: getattr(options, name) for name in ("seed", "epochs", "batch_size", "lr", "weight_decay")}
    # float16 for the weights: half the file, and the embeddings differ by less than 1e-3
    state = {
        name: tensor.clone().contiguous() if name.endswith((".mean", ".std")) else tensor.half().contiguous()
        for name, tensor in heads.state_dict().items()
    }
    metadata = {
        "config": json.dumps(config),
        "recipe": json.dumps(recipe),
        "command": "python recipes/train_dual_encoder.py",
        "figures": json.dumps(figures),
        "license": "apache-2.0",
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    partial = options.output.with_name(f".{options.output.name}.partial")
    save_file(state, partial, metadata=metadata)
    partial.chmod(0o644)
    partial.replace(options.output)
    print(f"wrote {options.output} ({options.output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
