"""Embed a table of raw items by one side of a dual encoder into an embedding store; goes on after a kill.

Needs `pip install hf-modalbridge`. Tested with a small dual encoder; at full size, captions and then images:

    python recipes/embed.py encoder=google/siglip-large-patch16-384 modality=text items=captions.jsonl \
        column=caption output=stores/text device=cuda
    python recipes/embed.py encoder=google/siglip-large-patch16-384 modality=image items=images.csv \
        column=file output=stores/image device=cuda

The table is `.jsonl`, `.csv`, `.tsv` or `.parquet` and has an `id` column; its other columns go to the
store's index. Captions of pictures and the pictures need no common rows: corrections are fitted unpaired.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Literal

from hf_modalbridge.training import load_config


@dataclass
class EmbedConfig:
    """What to embed, by what, and where to."""

    encoder: str
    modality: str
    items: str
    output: str
    column: str | None = None
    id_column: str = "id"
    root: str | None = None
    encoder_revision: str | None = None
    trust_remote_code: bool = False
    batch_size: int = 64
    dtype: Literal["float16", "float32", "float64"] = "float16"
    encoder_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    normalize: bool = True
    rows_per_shard: int = 65536
    overwrite: bool = False
    device: str = "cpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML file with the same keys")
    arguments, overrides = parser.parse_known_args()
    config = load_config(EmbedConfig, arguments.config, overrides)
    import torch

    from hf_modalbridge.data import embed_items, read_items
    from hf_modalbridge.encoders import load_encoder

    model, processor = load_encoder(
        config.encoder,
        config.encoder_revision,
        dtype=getattr(torch, config.encoder_dtype),
        trust_remote_code=config.trust_remote_code,
    )
    store = embed_items(
        model.to(config.device),
        processor,
        config.modality,
        read_items(config.items, config.modality, column=config.column, id_column=config.id_column, root=config.root),
        config.output,
        batch_size=config.batch_size,
        dtype=config.dtype,
        normalize=config.normalize,
        rows_per_shard=config.rows_per_shard,
        id=config.encoder,
        revision=config.encoder_revision,
        overwrite=config.overwrite,
    )
    print(f"{len(store)} {config.modality} embeddings of width {store.dim} in {config.output}")


if __name__ == "__main__":
    main()
