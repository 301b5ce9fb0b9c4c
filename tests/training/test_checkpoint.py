from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed, nn

from hf_modalbridge.training.checkpoint import CheckpointFolder, describe_differences, load_trained


def trained(seed: int) -> tuple[nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    layer = nn.Linear(4, 6)
    return layer, torch.optim.AdamW(layer.parameters())


def steps(layer: nn.Linear, optimizer: torch.optim.Optimizer, count: int) -> None:
    for step in range(count):
        layer(torch.full((2, 4), float(step))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_going_on_from_a_checkpoint_is_going_on(tmp_path):
    layer, optimizer = trained(0)
    steps(layer, optimizer, 3)
    folder = CheckpointFolder(tmp_path / "c")
    folder.save(3, dict(layer.named_parameters()), optimizer, {"note": 1})
    other, other_optimizer = trained(1)
    folder.load(3, dict(other.named_parameters()), other_optimizer)
    steps(layer, optimizer, 2), steps(other, other_optimizer, 2)
    assert torch.equal(layer.weight, other.weight) and torch.equal(layer.bias, other.bias)
    assert folder.steps() == [3]
    assert folder.read_state(3)["note"] == 1


def test_sharded_parameters_are_saved_whole_and_loaded_in_shards(tmp_path):
    """What FSDP2 makes of parameters, on a mesh of one process: the file is the same as without it."""
    from torch.distributed.fsdp import fully_shard

    plain, plain_optimizer = trained(0)
    steps(plain, plain_optimizer, 2)
    CheckpointFolder(tmp_path / "plain").save(2, dict(plain.named_parameters()), plain_optimizer, {})
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        layer = fully_shard(trained(1)[0], mesh=distributed.init_device_mesh("cpu", (1,)))
        optimizer = torch.optim.AdamW(layer.parameters())
        folder = CheckpointFolder(tmp_path / "plain")
        folder.load(2, dict(layer.named_parameters()), optimizer)
        assert isinstance(layer.weight, distributed.tensor.DTensor)
        assert isinstance(optimizer.state[layer.weight]["exp_avg"], distributed.tensor.DTensor)
        sharded = CheckpointFolder(tmp_path / "sharded")
        sharded.save(2, dict(layer.named_parameters()), optimizer, {})
    finally:
        distributed.destroy_process_group()
    for file in ("trained.safetensors", "optimizer.safetensors"):
        a, b = load_file(folder.path(2) / file), load_file(sharded.path(2) / file)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_tensors_of_another_model_are_refused_by_name(tmp_path):
    layer, optimizer = trained(0)
    folder = CheckpointFolder(tmp_path)
    folder.save(1, dict(layer.named_parameters()), optimizer, {})
    with pytest.raises(ValueError, match=r"weight: checkpoint \[6, 4\], this run \[7, 4\]"):
        load_trained(folder.path(1) / "trained.safetensors", dict(nn.Linear(4, 7).named_parameters()))


def test_another_format_is_refused(tmp_path):
    layer, optimizer = trained(0)
    folder = CheckpointFolder(tmp_path)
    folder.save(1, dict(layer.named_parameters()), optimizer, {})
    state = folder.path(1) / "state.json"
    state.write_text(state.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(ValueError, match="format 99, expected 1"):
        folder.read_state(1)


def test_differences_in_words():
    assert describe_differences({"a": {"b": 1}}, {"a": {"b": 1}}) == ""
    text = describe_differences({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]})
    assert (
        text == "a.b: checkpoint 1, this run 3; a.c: checkpoint 2, this run has none; d: checkpoint [1], this run [2]"
    )
    many = describe_differences({}, {str(i): i for i in range(12)}, limit=2)
    assert many == "0: checkpoint has none, this run 0; 1: checkpoint has none, this run 1; and 10 more"
