"""Token features of raw items into a store: each row an item's tokens, end to end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from hf_modalbridge.encoders import (
    describe_fingerprint,
    encode_tokens,
    encoder_fingerprint,
    fingerprints_match,
    move_inputs,
    prepare_items,
)
from hf_modalbridge.store import EmbeddingStore, EmbeddingStoreWriter
from hf_modalbridge.store.manifest import Manifest

__all__ = ["embed_tokens"]


@torch.inference_mode()
def embed_tokens(
    model: nn.Module,
    processor: Any,
    modality: str,
    items: Iterable[Mapping[str, Any]],
    out: str | PathLike,
    num_tokens: int,
    *,
    batch_size: int = 32,
    dtype: str = "float16",
    id: str | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> EmbeddingStore:
    """Embed items as token features, one batch at a time; a complete store of as many by this encoder is left as it is.

    Args:
        model: A frozen encoder that reads the modality.
        processor: Its processor.
        modality: What the items are, such as "point".
        items: Dicts with `id`, the raw item under the modality's name, and any further columns.
        out: Folder of the store.
        num_tokens: Tokens of an item; 1 takes the pooled embedding.
        batch_size: Items in a pass through the encoder.
        dtype: Of the store.
        id: The encoder's id for the fingerprint; None for where it was loaded from.
        revision: The encoder's revision, likewise.
        overwrite: Whether to replace a complete store of another size or encoder.
        progress: Show a progress bar.

    Returns:
        The store; rows are `num_tokens * dim` wide and not normalised.

    Raises:
        FileExistsError: If `out` holds a complete store of another size or encoder and may not be replaced.
        ValueError: If the encoder gives no such tokens, or a row is not finite.
    """
    total = len(items) if hasattr(items, "__len__") else None  # type: ignore[arg-type]
    encoder = encoder_fingerprint(model, processor, modality, id=id, revision=revision)
    encoder["normalized"] = False
    if (Path(out) / "manifest.json").is_file():
        manifest = Manifest.read(Path(out))
        made_by = {**(manifest.encoder or {}), "dim": encoder["dim"]}  # the store's is of all tokens together
        if manifest.complete and manifest.rows == total and fingerprints_match(made_by, encoder):
            return EmbeddingStore.open(out)
        if manifest.complete and not overwrite:
            raise FileExistsError(
                f"{out} is a complete store of {manifest.rows} rows by {describe_fingerprint(manifest.encoder)}, and "
                f"there are {total} items for {describe_fingerprint(encoder)}: pass overwrite=True, or choose another "
                "folder."
            )
        overwrite = True  # what a stopped run left
    rows, writer = iter(items), None
    try:
        with tqdm(total=total, desc=f"{modality} tokens", unit="item", disable=not progress, mininterval=2) as bar:
            while block := list(islice(rows, batch_size)):
                prepared = prepare_items(processor, modality, [row[modality] for row in block], model.config)  # type: ignore[arg-type]
                tokens = encode_tokens(model, modality, move_inputs(prepared, model.device), num_tokens).cpu()  # type: ignore[arg-type]
                if writer is None:
                    encoder["dim"] = num_tokens * tokens.shape[2]
                    writer = EmbeddingStoreWriter(
                        out, dim=encoder["dim"], dtype=dtype, normalized=False, encoder=encoder, overwrite=overwrite
                    )
                    writer.__enter__()
                names = [name for name in block[0] if name not in ("id", modality)]
                columns = {name: [row[name] for row in block] for name in names}
                writer.append([row["id"] for row in block], tokens.flatten(1), columns)
                bar.update(len(block))
    except BaseException as error:
        if writer is not None:
            writer.__exit__(type(error), error, error.__traceback__)
        raise
    if writer is None:
        raise ValueError(f"got no items to embed into {out}; check the input.")
    writer.__exit__(None, None, None)
    return EmbeddingStore.open(out)
