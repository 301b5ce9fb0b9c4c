"""The image tower's padding, shapes and behaviour; its agreement with the reference is in tests/demo."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import TINY_TOWER
from transformers import AutoModel

from hf_modalbridge.encoders import EfficientNetLiteConfig, EfficientNetLiteModel


@pytest.fixture
def tower() -> EfficientNetLiteModel:
    torch.manual_seed(0)
    return EfficientNetLiteModel(EfficientNetLiteConfig(**TINY_TOWER)).eval()


def same_convolution(x, convolution):
    """TensorFlow's "same" convolution, by its definition: pixel by pixel from a zero-extended picture."""
    kernel, stride = convolution.kernel_size[0], convolution.stride[0]
    out_h, out_w = -(-x.shape[2] // stride), -(-x.shape[3] // stride)
    top = max((out_h - 1) * stride + kernel - x.shape[2], 0) // 2
    left = max((out_w - 1) * stride + kernel - x.shape[3], 0) // 2
    big = torch.zeros(x.shape[0], x.shape[1], x.shape[2] + 4 * kernel, x.shape[3] + 4 * kernel)
    big[:, :, top : top + x.shape[2], left : left + x.shape[3]] = x
    groups = convolution.groups
    out = torch.zeros(x.shape[0], convolution.out_channels, out_h, out_w)
    weight = convolution.weight
    for i in range(out_h):
        for j in range(out_w):
            patch = big[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            patch = patch.reshape(x.shape[0], groups, -1)
            out[:, :, i, j] = torch.einsum("bgk,gok->bgo", patch, weight.reshape(groups, -1, patch.shape[2])).flatten(1)
    return out


@pytest.mark.parametrize("side", [(8, 8), (7, 9), (11, 6)])
@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_convolutions_pad_as_tensorflow_does_and_normalise(tower, side, training):
    one, two = tower.blocks[1], tower.blocks[2]
    for convolution, norm in (
        (tower.stem_conv, tower.stem_norm),
        (one.depthwise_conv, one.depthwise_norm),
        (two.depthwise_conv, two.depthwise_norm),
    ):
        for values, low in ((norm.weight, 0.5), (norm.bias, -1.0), (norm.running_mean, -1.0), (norm.running_var, 0.5)):
            values.uniform_(low, 2.0)
        x = torch.randn(2, convolution.in_channels, *side)
        y = same_convolution(x, convolution)
        norm.train(training)
        var, mean = torch.var_mean(y, (0, 2, 3), correction=0) if training else (norm.running_var, norm.running_mean)
        mean, var, weight, bias = (v[:, None, None].clone() for v in (mean, var, norm.weight, norm.bias))
        expected = (y - mean) / (var + norm.eps).sqrt() * weight + bias
        torch.testing.assert_close(convolution(x, norm), expected, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_pooled_features_are_the_mean_of_the_map(tower):
    x = torch.randn(3, 3, 37, 52)
    out = tower(x)
    assert out.last_hidden_state.shape == (3, 24, 10, 13)  # two halvings, rounded up
    torch.testing.assert_close(out.pooler_output, out.last_hidden_state.mean((2, 3)))
    torch.testing.assert_close(tower.get_image_features(x), out.pooler_output)
    torch.testing.assert_close(tower.get_image_features(x[1:2]), out.pooler_output[1:2])


@torch.no_grad()
def test_saved_tower_loads_completely(tower, tmp_path):
    tower.save_pretrained(tmp_path)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, EfficientNetLiteModel)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.get_image_features(x), tower.get_image_features(x))


def test_default_config_is_lite0():
    model = EfficientNetLiteModel(EfficientNetLiteConfig())
    assert sum(p.numel() for p in model.parameters()) == 4_652_008 - 1000 * 1281  # Lite0 less its classifier
    assert len(model.blocks) == 16


def test_bad_input_is_named(tower):
    with pytest.raises(ValueError, match=r"shape \(2, 1, 8, 8\).*\(batch, 3, height, width\)"):
        tower(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match="'stage_repeats': 2.*'stage_kernels': 1"):
        EfficientNetLiteConfig(**{**TINY_TOWER, "stage_kernels": [3]})
