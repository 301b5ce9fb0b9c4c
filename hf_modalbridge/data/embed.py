"""Embed raw items into a store: with progress, and resumable after a kill."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from hf_modalbridge.encoders import (
    encode,
    encoder_fingerprint,
    fingerprints_match,
    move_inputs,
    prepare_items,
)
from hf_modalbridge.store import EmbeddingStore, EmbeddingStoreWriter
from hf_modalbridge.store.manifest import Manifest

__all__ = ["embed_items"]

_BATCHES_SORTED_TOGETHER = 8  # texts of like length share a batch: little padding, and order is kept all the same


@torch.inference_mode()
def embed_items(
    model: nn.Module,
    processor: Any,
    modality: str,
    items: Iterable[Mapping[str, Any]],
    out: str | PathLike,
    *,
    batch_size: int = 32,
    dtype: str = "float16",
    normalize: bool = True,
    rows_per_shard: int = 4096,
    id: str | None = None,
    revision: str | None = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: bool = True,
) -> EmbeddingStore:
    """Embed items one batch at a time, and write them to a store.

    A run that was stopped goes on after its last complete shard when it is started again with the same items.

    Args:
        model: An encoder that reads the modality.
        processor: Its processor.
        modality: What the items are, such as "image".
        items: Dicts with `id`, the raw item under the modality's name, and any further columns, which go to
            the store's index. A text is kept there too, as column `text`.
        out: Folder of the store.
        batch_size: Items in a pass through the encoder.
        dtype: Of the store: "float16", "float32" or "float64".
        normalize: Whether rows are scaled to unit norm.
        rows_per_shard: Rows in a shard; also what a kill can lose.
        id: The encoder's id for the fingerprint; None for where it was loaded from.
        revision: The encoder's revision, likewise.
        resume: Whether to go on with a store that is there.
        overwrite: Whether to replace a store that is there.
        progress: Whether to show a progress bar.

    Returns:
        The complete store, with the encoder's fingerprint.

    Raises:
        FileExistsError: If `out` holds a store that may be neither resumed nor replaced, or something else.
        ValueError: If there are no items, an item lacks its id or its raw data, a row is not finite or zero,
            or a store to go on with was begun with another encoder or other items. What had been written is kept.
    """
    encoder = encoder_fingerprint(model, processor, modality, id=id, revision=revision)
    encoder["normalized"] = normalize
    resume = resume and not overwrite
    done: Sequence[str] = []
    if resume and (Path(out) / "manifest.json").is_file():
        encoder, done = _begun(Path(out), encoder)
    total = len(items) if hasattr(items, "__len__") else None
    rows = _checked(items, modality)
    _skip(rows, done, out)  # before the writer is opened: a refusal leaves the store as it was
    first = next(rows, None)
    if first is None and not done:
        raise ValueError(f"got no items to embed into {out}; check the input.")
    rows = chain([] if first is None else [first], rows)
    was_training = model.training
    model.eval()
    with (
        EmbeddingStoreWriter(
            out,
            dim=encoder["dim"],
            dtype=dtype,
            normalized=normalize,
            encoder=encoder,
            rows_per_shard=rows_per_shard,
            resume=resume,
            overwrite=overwrite,
            total_rows=total,
        ) as writer,
        tqdm(total=total, desc=f"embedding {modality}", unit="item", disable=not progress) as bar,
    ):
        bar.update(len(done))
        while block := list(islice(rows, batch_size * _BATCHES_SORTED_TOGETHER)):
            order = list(range(len(block)))
            if modality == "text":
                order.sort(key=lambda i: len(block[i]["text"]))
            embeddings: list[torch.Tensor | None] = [None] * len(block)
            for start in range(0, len(block), batch_size):
                picked = order[start : start + batch_size]
                prepared = prepare_items(processor, modality, [block[i][modality] for i in picked], model.config)
                encoded = encode(model, modality, move_inputs(prepared, model.device), normalize=normalize).cpu()
                for i, row in zip(picked, encoded, strict=True):
                    embeddings[i] = row
                bar.update(len(picked))
            names = [name for name in block[0] if name != "id" and (name != modality or modality == "text")]
            writer.append(
                [row["id"] for row in block],
                torch.stack([row for row in embeddings if row is not None]),
                {name: [row.get(name) for row in block] for name in names},
            )
    model.train(was_training)
    return EmbeddingStore.open(out)


def _checked(items: Iterable[Mapping[str, Any]], modality: str) -> Iterator[Mapping[str, Any]]:
    """Pass items on that have an id and something to embed."""
    for position, item in enumerate(items):
        missing = [name for name in ("id", modality) if item.get(name) is None]
        if missing:
            raise ValueError(
                f"item {position} (id {item.get('id')!r}) lacks {' and '.join(map(repr, missing))}; it has "
                f"{sorted(item)}. Give every item an 'id' and the raw {modality} under {modality!r}."
            )
        yield item


def _begun(out: Path, encoder: dict[str, Any]) -> tuple[dict[str, Any], Sequence[str]]:
    """Give the encoder and the ids of a store to go on with, if it is of this encoder."""
    if not Manifest.read(out).rows:  # stopped before its first shard
        return encoder, []
    store = EmbeddingStore.open(out, allow_incomplete=True)
    if not fingerprints_match(store.encoder, encoder):
        raise ValueError(
            f"the store {out} was begun with {store.encoder}, and this encoder is {encoder}. Go on with the first one, "
            "pass overwrite=True to begin again, or choose another folder."
        )
    return store.encoder or encoder, store.ids


def _skip(rows: Iterator[Mapping[str, Any]], done: Sequence[str], out: str | PathLike) -> None:
    """Pass over the items that the store holds already, making sure that they are the same."""
    for position, expected in enumerate(done):
        row = next(rows, None)
        found = None if row is None else row["id"]
        if found != expected:
            raise ValueError(
                f"cannot go on with the store {out}: its row {position} is {expected!r}, and the items have {found!r} "
                "there. Give the same items in the same order, or pass overwrite=True to begin again."
            )
