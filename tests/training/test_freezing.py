from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_modalbridge.training import assert_trainable, train_only, trainable_parameters


def model() -> nn.Module:
    return nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(4, 5), "c": nn.LayerNorm(5)}).to(torch.bfloat16)


def test_only_the_given_modules_train_and_in_float32():
    net = model()
    assert train_only(net, [net["b"]]) == 4 * 5 + 5
    assert set(trainable_parameters(net)) == {"b.weight", "b.bias"}
    assert net["b"].weight.dtype == torch.float32 and net["a"].weight.dtype == torch.bfloat16
    assert train_only(net, [net["a"], net["c"], net["a"]]) == 3 * 4 + 4 + 10  # the last call counts; twice is once


def test_shared_parameters_count_once():
    net = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    net["b"].weight = net["a"].weight
    assert train_only(net, [net["a"], net["b"]]) == 9


def test_a_module_of_another_model_is_refused():
    net = model()
    with pytest.raises(ValueError, match="not part of the model"):
        train_only(net, [model()["a"]])
    with pytest.raises(ValueError, match="has none"):
        train_only(net, [nn.GELU()])


def test_the_count_is_asserted():
    net = model()
    train_only(net, [net["b"]])
    net["a"].requires_grad_(True)
    with pytest.raises(ValueError, match=r"41 parameters train, expected 25.*'b.weight': 20"):
        assert_trainable(net, 25)
