"""Data: readers of tables, stores and chats, the order of batches, the collator, and embedding raw items."""

from __future__ import annotations

from typing import Any

from .batches import BatchPlan
from .captions import CaptionDataset
from .chats import ChatDataset, read_chats
from .collate import BridgeCollator
from .edge_plan import EdgePlan
from .items import read_items

__all__ = [
    "BatchPlan",
    "BridgeCollator",
    "CaptionDataset",
    "ChatDataset",
    "EdgePlan",
    "embed_items",
    "embed_tokens",
    "read_chats",
    "read_items",
]


def __getattr__(name: str) -> Any:
    if name == "embed_items":  # the only reader that needs encoders; training runs without them
        from .embed import embed_items

        return embed_items
    if name == "embed_tokens":
        from .embed_tokens import embed_tokens

        return embed_tokens
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
