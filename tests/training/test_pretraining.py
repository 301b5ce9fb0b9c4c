"""A pre-training run that was stopped ends with the numbers of one that was not."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import ModelOutput

from hf_modalbridge.training.pretraining import PretrainingConfig, pretrain


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.dropout = nn.Linear(4, 3), nn.Dropout(0.3)

    def forward(self, x, stop: bool = False):
        if stop:
            raise KeyboardInterrupt
        return ModelOutput(loss=self.linear(self.dropout(x)).square().mean())


def batch(step: int, stop_at: int | None = None):
    return {"x": torch.randn(8, 4, generator=torch.Generator().manual_seed(step)), "stop": step == stop_at}


def make() -> Toy:
    torch.manual_seed(0)
    return Toy()


ARGS = PretrainingConfig(steps=12, learning_rate=0.05, save_steps=4, progress=False)


def test_a_stopped_run_goes_on_exactly(tmp_path):
    whole = make()
    rows = pretrain(whole, batch, ARGS, tmp_path / "whole")
    assert len(rows) == 12 and rows[-1]["loss"] < rows[0]["loss"] and not whole.training
    with pytest.raises(KeyboardInterrupt):
        pretrain(make(), lambda step: batch(step, 6), ARGS, tmp_path / "parts")
    again = make()
    with torch.no_grad():
        again.linear.weight.zero_()  # comes from the checkpoint, not from here
    resumed = pretrain(again, batch, ARGS, tmp_path / "parts")
    assert [row["loss"] for row in resumed] == [row["loss"] for row in rows]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    lines = (tmp_path / "parts" / "losses.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 13))
    assert pretrain(make(), batch, ARGS, tmp_path / "parts")[-1] == resumed[-1], "done: nothing is trained"


def test_another_run_s_checkpoint_is_refused(tmp_path):
    pretrain(make(), batch, ARGS, tmp_path, {"data": "a"})
    with pytest.raises(ValueError, match="identity.data: checkpoint 'a', this run 'b'"):
        pretrain(make(), batch, ARGS, tmp_path, {"data": "b"})


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(ValueError, match="step 0 is nan"):
        pretrain(make(), lambda step: {"x": torch.full((8, 4), torch.nan)}, ARGS, tmp_path)
