"""Stage 1 data: an embedding and the caption that it stands for, as a plain prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from .rows import EmbeddingRows, TokenRows

__all__ = ["CaptionDataset"]


class CaptionDataset:
    """Rows of an embedding store, or of an array, each with its caption; tokenized once, by the processor.

    A row is `{"id", "input_ids" (tokens,), "labels" (tokens,), "items": {modality: {kind: (1, dim)}}}`: the
    modality's tokens, then the caption and the end-of-text token, which alone are supervised (ReVision's
    "plain" prompt).

    Args:
        embeddings: An `EmbeddingStore`, or an array or tensor `(rows, dim)`.
        processor: The bridge's processor.
        modality: Name of the modality.
        captions: One a row; None takes the store's `text_column`.
        kind: `imagine_embeds` are text embeddings that the model's correction is yet to move, `embeds` real ones.
        ids: One a row, for messages; None takes the store's, or numbers.
        text_column: Column of the store that holds the captions.
        max_length: Longest row in tokens; a longer caption is cut and then lacks its end token.
        rows: Positions to use `(n,)`; None uses all.
        in_memory: Hold the embeddings in memory as float32; None does so below 2 GiB.

    Raises:
        ValueError: If a caption is blank or holds a placeholder, or there is not one a row.
        KeyError: If the store has no such column.
    """

    def __init__(
        self,
        embeddings: Any,
        processor: Any,
        modality: str,
        captions: Sequence[str] | None = None,
        *,
        kind: Literal["imagine_embeds", "embeds"] = "imagine_embeds",
        ids: Sequence[str] | None = None,
        text_column: str = "text",
        max_length: int = 128,
        rows: np.ndarray | None = None,
        in_memory: bool | None = None,
    ) -> None:
        is_store = hasattr(embeddings, "iter_batches")
        if captions is None:
            if not is_store:
                raise ValueError("the embeddings are an array, which holds no captions: pass `captions`, one a row.")
            captions = embeddings.column(text_column)
        if len(captions) != len(embeddings):
            raise ValueError(f"got {len(captions)} captions for {len(embeddings)} embeddings: give one a row.")
        if ids is None:
            ids = embeddings.ids if is_store else [str(i) for i in range(len(embeddings))]
        positions = np.arange(len(embeddings)) if rows is None else np.asarray(rows)
        self.modality, self.kind = modality, kind
        self.ids = [ids[i] for i in positions]
        self.captions = [captions[i] for i in positions]
        self._check()
        self.embeddings = EmbeddingRows(embeddings, positions, in_memory)
        self.tokens = TokenRows()
        for start in range(0, len(self.captions), 1024):
            try:
                batch = processor.plain(self.captions[start : start + 1024], modality, max_length=max_length)
            except ValueError as error:
                error.add_note(f"These captions are rows {start} to {start + 1023}, ids from {self.ids[start]!r} on.")
                raise
            self.tokens.extend(batch)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every row `(rows,)`."""
        return self.tokens.lengths

    def __len__(self) -> int:
        return len(self.ids)

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        embeddings = self.embeddings[np.asarray(rows)]
        return [
            {
                "id": self.ids[row],
                **self.tokens[row],
                "items": {self.modality: {self.kind: embeddings[i : i + 1]}},
            }
            for i, row in enumerate(rows)
        ]

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.__getitems__([row])[0]

    def _check(self) -> None:
        blank = [i for i, c in zip(self.ids, self.captions, strict=True) if not isinstance(c, str) or not c.strip()]
        if blank:
            raise ValueError(
                f"{len(blank)} captions are blank and leave no supervised token; their ids begin with "
                f"{blank[:10]}. Give them a text, or leave these rows out of the store."
            )
