"""Stage 2 data: chats in a JSONL file about items whose embeddings lie in stores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .rows import EmbeddingRows, TokenRows

__all__ = ["ChatDataset", "read_chats"]


def read_chats(path: str | Path) -> list[dict[str, Any]]:
    """Read a JSONL file of chats.

    Args:
        path: Lines `{"id": ..., "messages": [{"role": ..., "content": ...}, ...]}`; blank lines are passed over.

    Returns:
        One dict a line.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is no such object; its number is named.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no chats at {str(path)!r}: give a JSONL file of {{'id', 'messages'}} objects.")
    chats = []
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                chat = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number} is not JSON ({error}): write one object a line.") from error
            if not isinstance(chat, dict) or "id" not in chat or not isinstance(chat.get("messages"), list):
                found = sorted(chat) if isinstance(chat, dict) else type(chat).__name__
                raise ValueError(
                    f"{path}, line {number} has {found}, expected an object with 'id' and a list 'messages'."
                )
            chats.append({**chat, "id": str(chat["id"])})
    if not chats:
        raise ValueError(f"{path} holds no chats: write one {{'id', 'messages'}} object a line.")
    return chats


class ChatDataset:
    """Chats as labelled rows; answers of the assistant are supervised, by the chat template's own spans.

    A content item `{"type": modality}` is the row of the modality's store with the chat's id; with an `"id"`
    of its own it is that row. Chats without items are welcome.

    Args:
        chats: `{"id", "messages"}` dicts, or a JSONL file of them.
        stores: `EmbeddingStore` of every modality that the chats mention.
        processor: The bridge's processor.
        max_length: Longest row in tokens; longer ones are cut at the end.
        lazy: Tokenize a row when it is first read, not now. Faulty rows then show only while training.
        in_memory: Hold the embeddings in memory as float32; None does so below 2 GiB.

    Raises:
        KeyError: If a store lacks ids that the chats mention; they are listed.
        ValueError: If there is no store for a modality, or a row has no supervised token.
    """

    def __init__(
        self,
        chats: str | Path | Sequence[Mapping[str, Any]],
        stores: Mapping[str, Any],
        processor: Any,
        *,
        max_length: int = 2048,
        lazy: bool = False,
        in_memory: bool | None = None,
    ) -> None:
        self.chats = read_chats(chats) if isinstance(chats, str | Path) else list(chats)
        self.processor, self.max_length = processor, max_length
        references = [_item_ids(chat, processor.modalities) for chat in self.chats]  # {modality: ids} of each chat
        used = sorted({modality for reference in references for modality in reference})
        missing = [m for m in used if m not in stores]
        if missing:
            raise ValueError(
                f"the chats mention items of {missing}, but there are stores of {sorted(stores)} only: name "
                "a store for each."
            )
        # rows of each modality, end to end; chat i has those from starts[i] to starts[i + 1]
        self.embeddings: dict[str, EmbeddingRows] = {}
        self.starts: dict[str, np.ndarray] = {}
        self.rows: dict[str, np.ndarray] = {}
        for modality in used:
            ids = [i for reference in references for i in reference.get(modality, ())]
            positions, inverse = np.unique(stores[modality].positions(ids), return_inverse=True)
            self.embeddings[modality] = EmbeddingRows(stores[modality], positions, in_memory)
            counts = [len(reference.get(modality, ())) for reference in references]
            self.starts[modality] = np.concatenate([[0], np.cumsum(counts)])
            self.rows[modality] = inverse
        self.every_chat_has = {m for m in used if (np.diff(self.starts[m]) > 0).all()}
        self._tokens: TokenRows | None = None
        self._cache: dict[int, dict[str, torch.Tensor]] = {}
        if not lazy:
            self._tokens = TokenRows()
            for row in range(len(self.chats)):
                self._tokens.extend(self._tokenize(row))

    @property
    def lengths(self) -> np.ndarray:
        """Length of every row `(rows,)`: in tokens, or in characters of the chat if tokenized lazily."""
        if self._tokens is not None:
            return self._tokens.lengths
        return np.asarray([len(json.dumps(chat["messages"])) for chat in self.chats])

    @property
    def ids(self) -> list[str]:
        """Ids of the chats."""
        return [chat["id"] for chat in self.chats]

    def __len__(self) -> int:
        return len(self.chats)

    def __getitem__(self, row: int) -> dict[str, Any]:
        if self._tokens is not None:
            tokens = self._tokens[row]
        else:
            if row not in self._cache:
                batch = self._tokenize(row)
                self._cache[row] = {key: batch[key][0] for key in ("input_ids", "labels")}
            tokens = self._cache[row]
        items = {m: {"embeds": values} for m, values in self._items(row).items()}
        return {"id": self.chats[row]["id"], **tokens, "items": items}

    def _items(self, row: int) -> dict[str, torch.Tensor]:
        found = {}
        for modality, starts in self.starts.items():
            rows = self.rows[modality][starts[row] : starts[row + 1]]
            if len(rows):
                found[modality] = self.embeddings[modality][rows]  # (items, dim)
        return found

    def _tokenize(self, row: int) -> Any:
        chat = self.chats[row]
        values = {modality: iter(rows) for modality, rows in self._items(row).items()}
        messages = [
            {
                **message,
                "content": [
                    {"type": item["type"], "embedding": next(values[item["type"]])}
                    if item.get("type") in values
                    else item
                    for item in message["content"]
                ],
            }
            if isinstance(message.get("content"), list)
            else message
            for message in chat["messages"]
        ]
        try:
            return self.processor.apply_chat_template(messages, return_labels=True, max_length=self.max_length)
        except ValueError as error:
            error.add_note(f"This is the chat with id {chat['id']!r} (row {row}).")
            raise


def _item_ids(chat: Mapping[str, Any], modalities: Mapping[str, Any]) -> dict[str, list[str]]:
    """Ids of the items that a chat mentions, by modality, in reading order."""
    found: dict[str, list[str]] = {}
    for message in chat["messages"]:
        content = message.get("content")
        for item in content if isinstance(content, list) else ():
            if item.get("type") in modalities:
                found.setdefault(item["type"], []).append(str(item.get("id", chat["id"])))
    return found
