"""Send a whole store through a correction."""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from hf_modalbridge.corrections.base import Correction
from hf_modalbridge.corrections.parallel import cache_rows, items_in_flight, map_in_order
from hf_modalbridge.store import EmbeddingStore, EmbeddingStoreWriter

__all__ = ["apply_correction"]


def apply_correction(
    correction: Correction,
    store: EmbeddingStore,
    out: str | os.PathLike[str],
    *,
    side: Literal["source", "target"] = "source",
    batch_size: int = 1024,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> EmbeddingStore:
    """Write a store of corrected embeddings; ids and columns come along.

    Args:
        correction: A fitted correction; applied without noise.
        store: The store to read.
        out: Folder of the store to write, in the dtype of the first.
        side: "source": through `forward`; "target": through `transform_target`.
        batch_size: Rows at once.
        resume: Go on with a store that an earlier run left unfinished.
        overwrite: Replace a store that is there.
        progress: Whether to show a progress bar.

    Returns:
        The new store. Its encoder is that of the target, since it holds stand-ins for target embeddings.

    Raises:
        ValueError: If the store is of another encoder or width.
        FileExistsError: If `out` exists.
    """
    if os.path.realpath(store.path) == os.path.realpath(out):
        raise ValueError(f"{out} is the store that is read; write the corrected embeddings to another path.")
    correction.check_encoder(store.encoder, side)
    if store.dim != correction.dim:
        raise ValueError(
            f"the correction is for embeddings of width {correction.dim}, and the store {store.path} holds width "
            f"{store.dim}. Use the store of the encoder that the correction was fitted on."
        )
    writer = EmbeddingStoreWriter(
        out,
        dim=store.dim,
        dtype=store.manifest.dtype,
        encoder=correction.target_encoder,
        resume=resume,
        overwrite=overwrite,
        total_rows=len(store),
    )
    block = cache_rows(store.dim, 6)

    def work(batch: tuple[np.ndarray, np.ndarray]) -> tuple[int, torch.Tensor]:
        # all in memory that is there already: new memory costs more than the arithmetic
        rows = torch.from_numpy(batch[1])
        wide = torch.empty(block, store.dim, dtype=torch.promote_types(rows.dtype, torch.float32))
        for part in rows.split(block):
            part.copy_(correction.transform_(wide[: len(part)].copy_(part), side))
        return int(batch[0][0]), rows

    with writer, tqdm(total=len(store), desc="apply", unit="row", disable=not progress) as bar:
        done = writer.rows_written
        bar.update(done)
        stream = store.iter_batches(batch_size, dtype=None, buffers=items_in_flight())
        batches = (batch for batch in stream if batch[0][-1] >= done)
        for start, rows in map_in_order(work, batches):
            skip = max(0, done - start)
            lines = store.table.slice(start + skip, len(rows) - skip)
            columns = {name: lines.column(name) for name in store.columns}
            writer.append(lines.column("id").to_pylist(), rows[skip:], columns, checked=True)
            bar.update(len(rows) - skip)
    return EmbeddingStore.open(out)
