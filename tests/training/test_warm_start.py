from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_world import DIM, build_language_model, build_tokenizer
from torch.nn import functional as F

from hf_modalbridge import ModalBridgeForConditionalGeneration
from hf_modalbridge.data import BridgeCollator, CaptionDataset
from hf_modalbridge.training import warm_start_connector
from hf_modalbridge.training.warm_start import ridge_regression


def test_ridge_equals_the_normal_equations():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5)) * 3 + 2, rng.normal(size=(40, 3)) - 7
    weight, bias = ridge_regression(torch.from_numpy(x), torch.from_numpy(y), 0.3)
    xc, yc = x - x.mean(0), y - y.mean(0)
    penalty = 0.3 * xc.var(0).mean()
    expected = np.linalg.inv(xc.T @ xc + 40 * penalty * np.eye(5)) @ xc.T @ yc
    np.testing.assert_allclose(weight.numpy(), expected.T, rtol=1e-9)
    np.testing.assert_allclose(bias.numpy(), y.mean(0) - x.mean(0) @ expected, rtol=1e-9)


@pytest.mark.parametrize("connector_type", ["linear", "mlp2x_gelu"])
@pytest.mark.parametrize("token_mode", ["repeat", "distinct"])
def test_tokens_become_the_ridge_prediction_of_the_mean_caption_embedding(world, connector_type, token_mode):
    tokenizer = build_tokenizer()
    fields = {
        "embedding_dim": DIM,
        "num_tokens": 2,
        "token_mode": token_mode,
        "connector_type": connector_type,
    }
    model, processor = ModalBridgeForConditionalGeneration.from_components(
        language_model=build_language_model(len(tokenizer)),
        tokenizer=tokenizer,
        modalities={"image": {**fields, "constant_prompt": 1, "placeholder_token": "<image>"}},
    )
    values = np.random.default_rng(0).normal(size=(60, DIM)).astype(np.float32)
    captions = world.captions[:60]
    data = CaptionDataset(values, processor, "image", captions, kind="embeds")
    explained = warm_start_connector(model, "image", data, BridgeCollator(processor), ridge=0.2, rows=None)

    z = F.normalize(torch.from_numpy(values)) * DIM**0.5
    projector = model.model.connectors["image"].projector
    features = z if connector_type == "linear" else F.gelu(projector.linear_1(z))
    x = features.detach().double().numpy()
    table = model.get_input_embeddings().weight.detach().double().numpy()
    y = np.stack([table[tokenizer(c, add_special_tokens=False)["input_ids"]].mean(0) for c in captions])
    xc, yc = x - x.mean(0), y - y.mean(0)
    w = np.linalg.solve(xc.T @ xc / 60 + 0.2 * xc.var(0).mean() * np.eye(x.shape[1]), xc.T @ yc / 60)
    predicted = xc @ w + y.mean(0)
    tokens = model.get_modality_features("image", embeds=torch.from_numpy(values)).detach()
    assert tokens.shape == (60, 3, 24)  # a constant token, then two
    for token in (1, 2):
        np.testing.assert_allclose(tokens[:, token].numpy(), predicted, rtol=1e-3, atol=1e-6)
    assert explained == pytest.approx(1 - ((y - predicted) ** 2).sum() / (yc**2).sum(), abs=1e-6)
