from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_modalbridge import ModalityConfig
from hf_modalbridge.models import CONNECTORS, Connector

REQUIRED = {"embedding_dim": 6, "placeholder_token": "<x>", "placeholder_token_id": 5}


def make(**fields):
    torch.manual_seed(0)
    connector = Connector(ModalityConfig(**REQUIRED, **fields), hidden_size=10)
    connector.init_weights()
    return connector


def test_repeat_projects_once_and_gives_identical_tokens():
    connector, seen = make(num_tokens=5), []
    connector.projector.register_forward_hook(lambda m, inputs, output: seen.append(tuple(inputs[0].shape)))
    tokens = connector(torch.randn(3, 6))
    assert tokens.shape == (3, 5, 10)
    assert seen == [(3, 6)]
    assert all(torch.equal(tokens[:, 0], tokens[:, k]) for k in range(5))
    assert not torch.equal(tokens[0, 0], tokens[1, 0])


def test_mlp2x_gelu_is_linear_gelu_linear():
    connector, x = make(num_tokens=1, connector_hidden_size=7), torch.randn(3, 6)
    p = connector.projector
    assert p.linear_1.weight.shape == (7, 6)
    hidden = x @ p.linear_1.weight.T + p.linear_1.bias
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(connector(x)[:, 0], hidden @ p.linear_2.weight.T + p.linear_2.bias)


def test_distinct_gives_different_tokens_and_linear_is_one_layer():
    connector, x = make(num_tokens=3, token_mode="distinct", connector_type="linear"), torch.randn(2, 6)
    layer = connector.projector.linear
    assert layer.weight.shape == (30, 6)
    expected = torch.stack([F.linear(x, layer.weight[k : k + 10], layer.bias[k : k + 10]) for k in (0, 10, 20)], 1)
    torch.testing.assert_close(connector(x), expected)


def test_constant_prompt_comes_first_is_constant_and_learns():
    connector = make(num_tokens=2, constant_prompt=3)
    tokens = connector(torch.randn(4, 6))
    assert tokens.shape == (4, 5, 10)
    assert torch.equal(tokens[:, :3], connector.constant_prompt.expand(4, -1, -1))
    tokens.sum().backward()
    assert torch.equal(connector.constant_prompt.grad, torch.full((3, 10), 4.0))


def test_output_starts_at_the_place_and_scale_of_the_embeddings_for_standardised_input():
    table = 3 + 0.5 * torch.randn(500, 64)
    torch.manual_seed(1)
    connector = Connector(ModalityConfig(**{**REQUIRED, "embedding_dim": 256}), hidden_size=64)
    state = torch.get_rng_state()
    connector.init_from_embeddings(table, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    out = connector(torch.randn(400, 256))[:, 0]
    assert out.mean().item() == pytest.approx(3, abs=0.1)
    assert out.std(0).mean().item() == pytest.approx(0.5, rel=0.15)
    other = Connector(ModalityConfig(**{**REQUIRED, "embedding_dim": 256}), hidden_size=64)
    other.init_from_embeddings(table, seed=3)
    assert torch.equal(other.projector.linear_2.weight, connector.projector.linear_2.weight)


def test_unknown_type_lists_the_known_and_the_registry_takes_new_ones(monkeypatch):
    with pytest.raises(ValueError, match="'qformer', expected one of linear, mlp2x_gelu"):
        make(connector_type="qformer")

    class Twice(CONNECTORS["linear"]):
        def forward(self, embeddings):
            return 2 * super().forward(embeddings)

    monkeypatch.setitem(CONNECTORS, "twice", Twice)
    connector = make(connector_type="twice", num_tokens=1)
    x = torch.randn(2, 6)
    assert isinstance(connector.projector, nn.Module)
    torch.testing.assert_close(connector(x)[:, 0], 2 * connector.projector.linear(x))
