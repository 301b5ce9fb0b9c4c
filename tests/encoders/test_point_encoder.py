"""Features of a cloud belong to the cloud: not to its order, unit, batch or padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoProcessor

from hf_modalbridge.encoders import (
    PointEncoder,
    PointEncoderConfig,
    PointEncoderForPreTraining,
    PointFeatureExtractor,
    encode,
    encoder_dim,
    encoder_fingerprint,
    load_encoder,
    prepare_items,
)

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "num_groups": 12,
    "group_size": 8,
    "point_dims": [16, 24, 24],
    "initializer_range": 0.3,  # at 0.02 a tiny model's features hardly depend on its input
}


def make(**changes) -> PointEncoder:
    torch.manual_seed(0)
    return PointEncoder(PointEncoderConfig(**{**TINY, **changes})).eval()


def cloud(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(size, 3))


@pytest.fixture(scope="module")
def model() -> PointEncoder:
    return make()


EXTRACTOR = PointFeatureExtractor(num_points=256)


@torch.inference_mode()
def features(model, points, **kwargs):
    return model.get_point_features(**EXTRACTOR(points, **kwargs))


def test_shapes_and_pooling(model):
    out = model(**EXTRACTOR([cloud(100), cloud(40)]), output_hidden_states=True)
    assert out.last_hidden_state.shape == (2, 13, 32) == (2, model.config.num_tokens, 32)
    assert out.pooler_output.shape == (2, 64) and encoder_dim(model.config) == 64
    assert len(out.hidden_states) == 3
    tokens = out.last_hidden_state[:, 1:]
    assert torch.equal(out.pooler_output, torch.cat([tokens.mean(1), tokens.amax(1)], -1))
    for pooling in ("cls", "mean", "max"):
        other = make(pooling=pooling)
        assert other(**EXTRACTOR(cloud(40))).pooler_output.shape == (1, 32) and encoder_dim(other.config) == 32


def test_a_batch_equals_single_calls(model):
    clouds = [cloud(size, seed) for seed, size in enumerate((16, 33, 256, 100))]
    together = model(**EXTRACTOR(clouds)).last_hidden_state
    for row, points in zip(together, clouds, strict=True):
        assert torch.allclose(model(**EXTRACTOR(points)).last_hidden_state[0], row, atol=1e-5)
    assert (together[0] - together[2]).abs().max() > 0.1, "the features do depend on the cloud"


@pytest.mark.parametrize("size", [16, 200, 3000])
def test_features_do_not_depend_on_order_unit_or_place(model, size):
    points = cloud(size)
    want = features(model, points)
    order = np.random.default_rng(1).permutation(size)
    assert torch.equal(features(model, points[order]), want)
    assert torch.allclose(features(model, points * 1000 + [3e4, -5, 100]), want, atol=1e-3)
    assert (features(model, points * [1, 2, 1]) - want).abs().max() > 0.05, "but on the shape"


def test_order_does_not_matter_where_distances_are_equal(model):
    grid = np.stack(np.meshgrid(*[np.arange(5.0)] * 3), -1).reshape(-1, 3)
    order = np.random.default_rng(1).permutation(len(grid))
    assert torch.equal(features(model, grid[order]), features(model, grid))
    values = EXTRACTOR(grid)["point_values"]
    assert torch.equal(model(values[:, torch.from_numpy(order)]).pooler_output, model(values).pooler_output)


def test_up_axis(model):
    points = cloud(100)
    lying = points[:, [0, 2, 1]] * [1, -1, 1]  # the same object in a frame with z up
    assert torch.allclose(features(model, lying, up_axis="z"), features(model, points), atol=1e-5)
    assert (features(model, lying) - features(model, points)).abs().max() > 0.05
    one = EXTRACTOR([{"points": lying, "up_axis": "z"}])["point_values"]
    assert torch.equal(one, EXTRACTOR(lying, up_axis="z")["point_values"])


def test_100_000_points_and_the_document_s_limits(model):
    big = cloud(100_000)
    inputs = EXTRACTOR([big, big[::-1], cloud(16)])
    assert inputs["point_values"].shape == (3, 256, 3)
    assert inputs["point_mask"].sum(1).tolist() == [256, 256, 16]
    assert torch.equal(inputs["point_values"][0], inputs["point_values"][1])
    assert torch.linalg.vector_norm(inputs["point_values"], dim=-1).amax(1).tolist() == pytest.approx([1] * 3)
    with pytest.raises(ValueError, match="15 points; expected 16"):
        EXTRACTOR(cloud(15))


def test_colour_and_normals_may_be_there_or_not():
    model, extractor = make(use_color=True, use_normals=True), PointFeatureExtractor(use_color=True, use_normals=True)
    xyz, rgb = cloud(50), np.random.default_rng(5).random((50, 3))
    normals = cloud(50, 7)
    inputs = extractor([{"points": xyz, "colors": rgb, "normals": normals}, xyz])
    assert inputs["point_values"].shape == (2, 50, 11)
    row = inputs["point_values"][0]
    assert row[:, 3:6].abs().max() <= 1 and bool((row[:, [6, 10]] == 1).all())
    assert torch.allclose(torch.linalg.vector_norm(row[:, 7:10], dim=1), torch.ones(50))
    assert not inputs["point_values"][1][:, 3:].any()
    whole, bare = model(**inputs).pooler_output
    assert (whole - bare).abs().max() > 0.05
    bytes_ = extractor({"points": xyz, "colors": np.round(rgb * 255).astype(np.uint8)})["point_values"]
    assert torch.allclose(bytes_[0, :, 3:6], row[:, 3:6], atol=1 / 127)
    assert torch.allclose(extractor(np.hstack([xyz, rgb]))["point_values"][0, :, :7], row[:, :7])
    turned = extractor({"points": xyz, "normals": normals}, up_axis="z")["point_values"][0]
    assert torch.allclose(turned[:, 8], row[:, 9], atol=1e-6), "normals turn with the points"
    with pytest.raises(ValueError, match="expected \\(batch, points, 11\\).*use_color=True"):
        model(EXTRACTOR(xyz)["point_values"])


def test_reload(model, tmp_path):
    model.save_pretrained(tmp_path)
    EXTRACTOR.save_pretrained(tmp_path)
    other, extractor = load_encoder(tmp_path)
    assert isinstance(extractor, PointFeatureExtractor) and extractor.num_points == 256
    points = cloud(80)
    assert torch.equal(other(**extractor(points)).pooler_output, model(**EXTRACTOR(points)).pooler_output)
    assert isinstance(AutoModel.from_pretrained(tmp_path), PointEncoder)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), PointFeatureExtractor)
    assert isinstance(AutoFeatureExtractor.from_pretrained(tmp_path), PointFeatureExtractor)
    print_ = encoder_fingerprint(model, EXTRACTOR, "point")
    assert (
        print_ == {**encoder_fingerprint(other, extractor, "point"), "id": print_["id"]} and len(print_["probe"]) == 8
    )


def test_bfloat16(model, tmp_path):
    model.save_pretrained(tmp_path)
    half = PointEncoder.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    inputs = EXTRACTOR([cloud(100), cloud(50)])
    want, got = model(**inputs).pooler_output, half(**inputs).pooler_output
    assert got.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(want, got.float()).min() > 0.999


def test_encode_by_the_protocol(model):
    inputs = prepare_items(EXTRACTOR, "point", [cloud(40), cloud(60)])
    rows = encode(model, "point", inputs)
    assert rows.shape == (2, 64) and torch.allclose(rows.norm(dim=1), torch.ones(2))


def test_gradients_reach_all_weights_with_and_without_checkpointing():
    torch.manual_seed(0)
    model = PointEncoder(PointEncoderConfig(**TINY)).train()
    inputs = EXTRACTOR([cloud(64), cloud(64, 1)])
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(**inputs).last_hidden_state.square().sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(*found, strict=True))


def test_a_real_gradient(model):
    values = EXTRACTOR(cloud(40))["point_values"].requires_grad_()
    model(values).pooler_output[0, 5].backward()
    place = (0, 7, 1)
    step = torch.zeros_like(values)
    step[place] = 1e-3
    with torch.no_grad():
        slope = (model(values + step).pooler_output - model(values - step).pooler_output)[0, 5] / 2e-3
    assert values.grad[place].item() == pytest.approx(slope.item(), rel=0.05, abs=1e-3)


def test_compiles_without_graph_breaks(model):
    inputs = EXTRACTOR([cloud(64), cloud(40)])
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(compiled(**inputs).pooler_output, model(**inputs).pooler_output)


def test_pretraining_learns_and_hides(tmp_path):
    torch.manual_seed(0)
    model = PointEncoderForPreTraining(PointEncoderConfig(**{**TINY, "initializer_range": 0.02, "mask_ratio": 0.5}))
    inputs = EXTRACTOR([cloud(64), cloud(64, 1)])
    noise = torch.rand(2, 12)
    out = model(**inputs, mask_noise=noise)
    assert out.reconstruction.shape == out.target.shape == (2, 6, 8, 3)
    assert torch.allclose(torch.linalg.vector_norm(out.target, dim=-1).amax(2), torch.ones(2, 6), atol=1e-5)
    hidden = noise.argsort(1)[:, 6:]
    _, centers = model.encoder.group(**inputs)
    assert torch.equal(out.centers, centers.gather(1, hidden[..., None].expand(-1, -1, 3)))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        loss = model(**inputs, mask_noise=noise).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.6 * out.loss.item()
    model.encoder.save_pretrained(tmp_path)
    saved = PointEncoder.from_pretrained(tmp_path)
    assert torch.equal(saved.eval()(**inputs).pooler_output, model.encoder.eval()(**inputs).pooler_output)


def test_pretraining_tells_the_kinds_of_generated_shapes():
    torch.manual_seed(0)
    tasks = {"initializer_range": 0.02, "num_kinds": 3, "kind_weight": 0.5}
    model = PointEncoderForPreTraining(PointEncoderConfig(**{**TINY, **tasks})).eval()
    inputs = EXTRACTOR([cloud(64, seed) for seed in range(4)])
    noise, kinds = torch.rand(4, 12), torch.tensor([2, -100, 0, -100])
    out = model(**inputs, mask_noise=noise, kinds=kinds)
    assert out.loss.item() == pytest.approx((out.reconstruction_loss + 0.5 * out.kind_loss).item(), rel=1e-6)
    other = model(**inputs, mask_noise=noise, kinds=torch.tensor([1, -100, 0, -100]))
    assert other.kind_loss != out.kind_loss and other.reconstruction_loss == out.reconstruction_loss
    for none in (torch.full((4,), -100), None):  # no generated shape in the batch
        assert model(**inputs, mask_noise=noise, kinds=none).loss == out.reconstruction_loss
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        last = model(**inputs, mask_noise=noise, kinds=kinds)
        last.loss.backward()
        optimizer.step()
    assert last.kind_loss < 0.5 * out.kind_loss


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "sum"}, "pooling 'sum'"),
        ({"num_attention_heads": 5}, "5 heads do not divide"),
        ({"point_dims": [4]}, "three widths"),
        ({"mask_ratio": 1.0}, "mask_ratio 1.0"),
        ({"embedding_dim": 7}, "gives 64"),
    ],
)
def test_wrong_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        PointEncoderConfig(**{**TINY, **changes})


def test_a_wrong_mask_is_refused(model):
    with pytest.raises(ValueError, match="point_mask of shape \\(1, 9\\)"):
        model(torch.zeros(1, 20, 3), torch.ones(1, 9, dtype=torch.bool))
