from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.nn import functional as F
from toy import Rows, Toy, collate, settings

from hf_modalbridge.data import BatchPlan
from hf_modalbridge.training import held_out_loss, train
from hf_modalbridge.training.schedule import learning_rate_factor


def losses(result) -> list[float]:
    return [row["loss"] for row in result.rows]


def test_a_step_is_adamw_on_the_mean_over_all_supervised_tokens():
    """The whole run written out: token mean over the accumulated batch, clipping, warm-up and cosine."""
    model, data = Toy(dropout=0.0), Rows()
    args = settings(weight_decay=0.1, betas=(0.8, 0.95), max_grad_norm=0.5, warmup_steps=3)
    result = train(model, data, collate, args)

    table, weight, bias = model.table.weight, *(p.detach().clone() for p in Toy().layer.parameters())
    weight.requires_grad_(), bias.requires_grad_()
    optimizer = torch.optim.AdamW(
        [{"params": [weight], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}],
        betas=(0.8, 0.95),
    )
    plan = BatchPlan(50, batch_size=8, total_steps=12, lengths=data.lengths)
    for step in range(12):
        total, tokens = 0.0, 0
        for row in plan.step_rows(step):
            ids = data.rows[row]
            logits = table[ids[:-1]] @ weight.T + bias
            total = total + F.cross_entropy(logits, ids[1:], reduction="sum")
            tokens += len(ids) - 1
        loss = total / tokens
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([weight, bias], 0.5)
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * ((step + 1) / 3 if step < 3 else 0.5 * (1 + np.cos(np.pi * (step - 3) / (12 - 3))))
        optimizer.step()
        row = result.rows[step]
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert row["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
        assert row["tokens"] == tokens
        assert row["lr"] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    torch.testing.assert_close(model.layer.weight, weight.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.layer.bias, bias.detach(), rtol=1e-4, atol=1e-5)


def test_accumulation_equals_a_larger_batch():
    runs = [
        train(Toy(0.0), Rows(), collate, settings(per_device_batch_size=8 // a, gradient_accumulation_steps=a))
        for a in (1, 2, 8)
    ]
    for run in runs[1:]:
        assert losses(run) == pytest.approx(losses(runs[0]), rel=1e-5)


def test_a_caller_that_watches_the_steps_can_end_the_run_and_it_goes_on_later(tmp_path):
    full = train(Toy(), Rows(), collate, settings(), tmp_path / "full")
    seen: list[dict] = []

    def watch(row: dict) -> bool:
        seen.append(row)
        return len(seen) == 5

    short = train(Toy(), Rows(), collate, settings(), tmp_path / "short", on_step=watch)
    assert short.steps == 5 and seen == short.rows == full.rows[:5]
    assert short.checkpoint is not None and short.checkpoint.name.endswith("5") and short.checkpoint.is_dir()
    assert losses(train(Toy(), Rows(), collate, settings(), tmp_path / "short")) == losses(full)


@pytest.mark.parametrize("stop", [1, 4, 7, 11])
def test_going_on_gives_the_same_numbers_to_the_last_bit(tmp_path, stop):
    full_model = Toy()
    full = train(full_model, Rows(), collate, settings(eval_steps=3), tmp_path / "full", eval_dataset=Rows(9))

    class Stops(Toy):
        calls = 0

        def forward(self, *arguments, **keywords):
            self.calls += self.training
            if self.calls > 2 * stop:
                raise KeyboardInterrupt
            return super().forward(*arguments, **keywords)

    with pytest.raises(KeyboardInterrupt):
        train(Stops(), Rows(), collate, settings(eval_steps=3), tmp_path / "cut", eval_dataset=Rows(9))
    written = (tmp_path / "cut" / "losses.jsonl").read_text().splitlines()
    assert len(written) == stop  # rows beyond the last checkpoint are there, and have to go
    (tmp_path / "cut" / "losses.jsonl").write_text("\n".join(written) + '\n{"step": 99, "lo')
    random.seed(), torch.manual_seed(random.randrange(10**6))  # what the caller drew must not matter
    model = Toy()
    again = train(model, Rows(), collate, settings(eval_steps=3), tmp_path / "cut", eval_dataset=Rows(9))
    assert losses(again) == losses(full)
    assert again.held_out_loss == full.held_out_loss
    assert torch.equal(model.layer.weight, full_model.layer.weight)
    assert (tmp_path / "cut" / "losses.jsonl").read_bytes() == (tmp_path / "full" / "losses.jsonl").read_bytes()


def test_workers_read_the_same_batches():
    assert losses(train(Toy(), Rows(), collate, settings(num_workers=1))) == losses(
        train(Toy(), Rows(), collate, settings())
    )


def test_a_finished_run_is_not_run_again(tmp_path):
    first = train(Toy(), Rows(), collate, settings(), tmp_path)
    model = Toy()
    second = train(model, Rows(), collate, settings(), tmp_path)
    assert losses(second) == losses(first)
    assert not torch.equal(model.layer.weight, Toy().layer.weight)


@pytest.mark.parametrize(
    ("changes", "identity", "message"),
    [
        ({"learning_rate": 0.5}, {"data": "a"}, r"learning_rates: checkpoint \[0.02\], this run \[0.5\]"),
        ({"seed": 1}, {"data": "a"}, "training.seed: checkpoint 0, this run 1"),
        ({"max_steps": 13}, {"data": "a"}, "total_steps: checkpoint 12, this run 13"),
        ({"per_device_batch_size": 2}, {"data": "a"}, "global_batch_size: checkpoint 8, this run 4"),
        ({}, {"data": "b"}, "data: checkpoint 'a', this run 'b'"),
        ({"resume": "never"}, {"data": "a"}, "resume` is 'never'"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_name(tmp_path, changes, identity, message):
    train(Toy(), Rows(), collate, settings(), tmp_path, identity={"data": "a"})
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=message):
        train(Toy(), Rows(), collate, settings(**changes), tmp_path, identity=identity)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path):
    train(Toy(), Rows(), collate, settings(), tmp_path)
    other = Toy()
    other.layer = torch.nn.Linear(8, 20, bias=False)
    with pytest.raises(ValueError, match="parameters.layer.bias: checkpoint .20., this run has none"):
        train(other, Rows(), collate, settings(), tmp_path)


def test_only_trained_tensors_are_saved_and_old_checkpoints_go(tmp_path):
    from safetensors.torch import load_file

    train(Toy(), Rows(), collate, settings(save_steps=2, total_limit=3), tmp_path)
    folders = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert folders == ["step-00000008", "step-00000010", "step-00000012"]
    last = tmp_path / "checkpoints" / folders[-1]
    assert set(load_file(last / "trained.safetensors")) == {"layer.weight", "layer.bias"}
    assert set(load_file(last / "optimizer.safetensors")) == {
        f"layer.{p}/{k}" for p in ("weight", "bias") for k in ("exp_avg", "exp_avg_sq", "step")
    }
    assert sorted(p.name for p in last.iterdir()) == [
        "optimizer.safetensors",
        "state.json",
        "trained.safetensors",
    ]


def test_an_interrupted_write_is_no_checkpoint(tmp_path):
    train(Toy(), Rows(), collate, settings(), tmp_path)
    part = tmp_path / "checkpoints" / ".part-00000099"
    part.mkdir()
    (part / "trained.safetensors").write_bytes(b"half")
    train(Toy(), Rows(), collate, settings(), tmp_path)
    assert not part.exists()


def test_a_loss_that_is_not_finite_stops_with_step_and_rows(tmp_path):
    class Breaks(Toy):
        calls = 0

        def forward(self, *arguments, **keywords):
            output = super().forward(*arguments, **keywords)
            self.calls += 1
            return output if self.calls <= 10 else type(output)(loss=output.loss * float("nan"))

    model = Breaks()
    with pytest.raises(FloatingPointError, match="step 6: loss nan"):
        train(model, Rows(), collate, settings(), tmp_path)
    assert torch.isfinite(model.layer.weight).all()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]


def test_nothing_is_left_behind():
    before = torch.get_rng_state()
    outer = Accelerator(cpu=True)
    state = dict(AcceleratorState._shared_state)
    model = Toy()
    train(model, Rows(), collate, settings(mixed_precision="bf16"))
    train(Toy(), Rows(), collate, settings(mixed_precision="no"))  # accelerate alone refuses the change
    assert torch.equal(torch.get_rng_state(), before)
    assert AcceleratorState._shared_state == state and outer.mixed_precision == "no"
    assert model.forward.__func__ is Toy.forward and not model.training
    AcceleratorState._reset_state()


def test_bf16_is_close_but_not_the_same():
    exact = losses(train(Toy(0.0), Rows(), collate, settings(mixed_precision="no")))
    half = losses(train(Toy(0.0), Rows(), collate, settings(mixed_precision="bf16")))
    assert half != exact
    assert half == pytest.approx(exact, rel=2e-2)


def test_held_out_loss_is_the_mean_over_tokens():
    model, data = Toy().eval(), Rows(11)
    total, tokens = 0.0, 0
    for ids in data.rows:
        logits = model.layer(model.table(ids[:-1]))
        total += F.cross_entropy(logits, ids[1:], reduction="sum").item()
        tokens += len(ids) - 1
    for size in (1, 4, 100):
        assert held_out_loss(model, data, collate, size) == pytest.approx(total / tokens, rel=1e-6)


def test_frozen_modules_do_not_drop_out():
    model = Toy(dropout=0.9)
    quiet = train(model, Rows(), collate, settings(max_steps=1), train_modules=[model.layer])
    plain = train(Toy(dropout=0.0), Rows(), collate, settings(max_steps=1))
    assert losses(quiet) == losses(plain)


def test_learning_rates_by_module():
    model, before = Toy(), Toy().layer.weight.detach().clone()
    train(model, Rows(), collate, settings(max_steps=1), learning_rates={model.layer: 0.0})
    assert torch.equal(model.layer.weight, before)


def test_a_model_without_trained_parameters_is_refused():
    with pytest.raises(ValueError, match="no parameter of the model requires gradients"):
        train(Toy().requires_grad_(False), Rows(), collate, settings())


def test_tensorboard_has_every_step_once_after_going_on(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    class Stops(Toy):
        def forward(self, *arguments, **keywords):
            if len(list((tmp_path / "checkpoints").glob("step-*"))) == 1 and next(self.left) == 0:
                raise KeyboardInterrupt
            return super().forward(*arguments, **keywords)

    model = Stops()
    model.left = iter([2, 1, 0])
    with pytest.raises(KeyboardInterrupt):
        train(model, Rows(), collate, settings(trackers=["tensorboard"]), tmp_path)
    result = train(Toy(), Rows(), collate, settings(trackers=["tensorboard"]), tmp_path)
    events = event_accumulator.EventAccumulator(str(next(tmp_path.glob("**/events*")).parent))
    events.Reload()
    logged = [(e.step, e.value) for e in events.Scalars("loss")]
    assert logged == [(row["step"], pytest.approx(row["loss"], rel=1e-6)) for row in result.rows]


def test_an_unknown_tracker_is_named(tmp_path):
    with pytest.raises(ValueError, match="notatracker"):
        train(Toy(), Rows(), collate, settings(trackers=["notatracker"]), tmp_path)


def test_schedule():
    assert [learning_rate_factor(s, 10, 4, "constant") for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert learning_rate_factor(4, 10, 4, "cosine") == 1.0
    assert learning_rate_factor(7, 10, 4, "cosine") == pytest.approx(0.5)
    assert 0 < learning_rate_factor(9, 10, 4, "cosine") < 0.1
    with pytest.raises(ValueError, match="linear"):
        learning_rate_factor(5, 10, 0, "linear")


def test_rows_of_the_log_are_plain_json(tmp_path):
    train(Toy(), Rows(), collate, settings(), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))
