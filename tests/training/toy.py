"""A stand-in for a bridge: the loop's interface and nothing else."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

from hf_modalbridge.training import LoopConfig


class Toy(nn.Module):
    """Next-token model of a frozen table and a trained layer, with dropout."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.table = nn.Embedding(20, 8).requires_grad_(False)
            self.layer = nn.Linear(8, 20)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids, labels, attention_mask=None, num_items_in_batch=None, reduction="mean"):
        logits = self.layer(self.dropout(self.table(input_ids)))[:, :-1]
        if num_items_in_batch is not None:
            reduction = "sum"
        loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction=reduction, ignore_index=-100)
        return SimpleNamespace(loss=loss if num_items_in_batch is None else loss / num_items_in_batch)


class Rows(torch.utils.data.Dataset):
    """Rows of uneven length, the first token unsupervised."""

    def __init__(self, rows: int = 50) -> None:
        generator = torch.Generator().manual_seed(0)
        self.rows = [
            torch.randint(1, 20, (int(torch.randint(3, 12, (), generator=generator)),), generator=generator)
            for _ in range(rows)
        ]
        self.lengths = torch.tensor([len(r) for r in self.rows]).numpy()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row):
        ids = self.rows[row]
        return {"id": str(row), "input_ids": ids, "labels": torch.cat([torch.tensor([-100]), ids[1:]])}


def collate(rows):
    pad = nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad([r["input_ids"] for r in rows], batch_first=True),
        "labels": pad([r["labels"] for r in rows], batch_first=True, padding_value=-100),
        "ids": [r["id"] for r in rows],
    }


def settings(**changes) -> LoopConfig:
    values = {
        "learning_rate": 0.02,
        "per_device_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 12,
        "save_steps": 4,
        "progress": False,
        **changes,
    }
    return LoopConfig(**values)
