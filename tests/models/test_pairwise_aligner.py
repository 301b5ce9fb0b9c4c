"""The aligner: its loss by the formulas, what masks hide, saving, and the batch's independence."""

from __future__ import annotations

import math

import pytest
import torch

from hf_modalbridge.models.configuration_pairwise import PairwiseConfig
from hf_modalbridge.models.pairwise_aligner import PairwiseAligner, prefix_mask, reconstruction_loss

MODALITIES = {
    "text": {"input_dim": 7, "num_tokens": 4},
    "point": {"input_dim": 5, "num_tokens": 6, "reconstruction": 0.3},
    "image": {"input_dim": 3, "num_tokens": 1, "reconstruction": 0.2},
}
EDGES = [
    {"source": "point", "target": "text", "active": 5, "cross": 0.9, "backward": 0.4, "contrast": 0.6},
    {"source": "image", "target": "text", "active": 7},
]
SIZES = {"width": 8, "num_latents": 3, "encoder_layers": 1, "decoder_layers": 2, "heads": 2, "ff_mult": 2}


def make(**changes) -> PairwiseAligner:
    torch.manual_seed(0)
    aligner = PairwiseAligner(PairwiseConfig(modalities=MODALITIES, edges=EDGES, **{**SIZES, **changes})).eval()
    aligner.set_statistics("text", torch.randn(7), 0.3)
    aligner.set_statistics("point", torch.randn(5), 2.0)
    return aligner


def batch(n: int = 4) -> tuple[dict, dict]:
    torch.manual_seed(1)
    mask = torch.arange(4) < torch.tensor([4, 2, 1, 3])[:n, None]
    return {"point": torch.randn(n, 6, 5), "text": torch.randn(n, 4, 7)}, {"text": mask}


def test_loss_is_the_sum_of_the_formulas():
    aligner, (features, masks) = make(), batch()
    out = aligner(features, masks)
    codes = {n: aligner.encode(n, x, masks.get(n)) for n, x in features.items()}

    def rec(target, code):
        x, y = features[target].double(), aligner.decode(target, code).double()
        total, count = 0.0, 0
        for i in range(len(x)):
            for t in range(x.shape[1]):
                if target in masks and not masks[target][i, t]:
                    continue
                mean, scale = aligner.decoders[target].mean.double(), float(aligner.decoders[target].scale)
                a, b = (y[i, t] - mean) / scale, (x[i, t] - mean) / scale
                cosine = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
                total += float(((a - b) ** 2).mean()) + 0.1 * (1 - cosine)
                count += 1
        return total / count

    def cut(code):
        return torch.cat([code[..., :5], torch.zeros_like(code[..., 5:])], -1)

    u, v = (cut(codes[n]).mean(1).double() for n in ("text", "point"))
    logits = torch.nn.functional.cosine_similarity(u[:, None], v[None], dim=-1) / 0.07
    contrast = -0.5 * (logits.log_softmax(1).diagonal().mean() + logits.log_softmax(0).diagonal().mean())
    expected = {
        "reconstruction_text": 1.0 * rec("text", codes["text"]),
        "reconstruction_point": 0.3 * rec("point", codes["point"]),
        "cross": 0.9 * rec("text", cut(codes["point"])),
        "backward": 0.4 * rec("point", cut(codes["text"])),
        "contrast": 0.6 * float(contrast),
    }
    assert float(out.loss) == pytest.approx(sum(expected.values()), rel=1e-5)
    assert out.parts.keys() == expected.keys()
    assert float(out.parts["contrast"]) == pytest.approx(float(contrast), rel=1e-5)


def test_the_loss_weighs_as_the_loop_expects():
    aligner, (features, masks) = make(), batch()
    mean = aligner(features, masks).loss
    torch.testing.assert_close(aligner(features, masks, num_items_in_batch=16).loss, mean * 4 / 16)
    torch.testing.assert_close(aligner(features, masks, reduction="sum").loss, mean * 4)


def test_channels_outside_the_mask_have_no_influence(monkeypatch):
    aligner, (features, masks) = make(), batch()
    original = PairwiseAligner.encode

    def disturbed(self, *args, **kwargs):
        code = original(self, *args, **kwargs)
        return torch.cat([code[..., :5], 100 * torch.randn_like(code[..., 5:])], -1)

    before = aligner(features, masks).parts
    tokens, rows = (
        aligner.recompose("point", "text", features["point"]),
        aligner.embed("point", features["point"], None, 5),
    )
    monkeypatch.setattr(PairwiseAligner, "encode", disturbed)
    after = aligner(features, masks).parts
    for name in ("cross", "backward", "contrast"):
        torch.testing.assert_close(before[name], after[name])
    assert not torch.allclose(before["reconstruction_point"], after["reconstruction_point"])  # that sees all of it
    torch.testing.assert_close(aligner.recompose("point", "text", features["point"]), tokens)
    torch.testing.assert_close(aligner.embed("point", features["point"], None, 5), rows)


def test_no_gradient_reaches_masked_channels_across_and_the_third_modality():
    aligner, (features, masks) = make(), batch()
    code = aligner.encode("point", features["point"]).detach().requires_grad_()
    aligner.decode("text", code, 5).square().sum().backward()
    assert code.grad[..., 5:].abs().max() == 0 < code.grad[..., :5].abs().max()
    aligner(features, masks).loss.backward()
    grads = {n: p.grad for n, p in aligner.named_parameters()}
    assert all(g is None for n, g in grads.items() if ".image." in n)
    missing = [n for n, g in grads.items() if ".image." not in n and g is None]
    assert not missing


def test_between_modalities_that_were_never_paired_the_smallest_mask_on_the_way_counts():
    aligner, (features, _) = make(), batch()
    assert aligner.config.edge("point", "image") is None
    assert aligner.config.active_entries("point", "image") == 5
    expected = aligner.decoders["image"](prefix_mask(aligner.encode("point", features["point"]), 5))
    torch.testing.assert_close(aligner.recompose("point", "image", features["point"]), expected)


def test_a_batch_is_its_items_and_padding_is_not_seen():
    aligner, (features, masks) = make(), batch()
    whole = aligner.encode("text", features["text"], masks["text"])
    for i, length in enumerate((4, 2, 1, 3)):
        alone = aligner.encode("text", features["text"][i : i + 1, :length])
        torch.testing.assert_close(whole[i : i + 1], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["info_nce", "cwcl", "gram", "clip_uniform_align"])
@pytest.mark.parametrize("mode", ["fixed", "scheduled", "learned"])
def test_every_contrast_and_temperature_trains(kind, mode):
    aligner, (features, masks) = make(contrast_loss=kind, temperature_mode=mode, temperature_end=0.2), batch()
    aligner.set_progress(0.5)
    expected = {"fixed": 0.07, "scheduled": 0.135, "learned": 0.07}[mode]
    assert float(aligner.temperature()) == pytest.approx(expected, rel=1e-5)
    aligner(features, masks).loss.backward()
    if mode == "learned":
        assert aligner.nu.grad.abs() > 0


@pytest.mark.parametrize("mode", ["fixed", "learned"])
def test_saved_and_loaded_it_is_the_same(tmp_path, mode):
    aligner, (features, masks) = make(temperature_mode=mode), batch()
    aligner.save_pretrained(tmp_path)
    loaded, report = PairwiseAligner.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(aligner(features, masks).loss, loaded.eval()(features, masks).loss)
    assert loaded.config.to_dict()["edges"] == aligner.config.to_dict()["edges"]
    for name, value in aligner.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


def test_reconstruction_loss_is_zero_for_the_same_tokens_and_ignores_the_masked():
    x, mask = torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    assert float(reconstruction_loss(x, x)) == pytest.approx(0, abs=1e-6)
    assert float(reconstruction_loss(x + 9 * ~mask[..., None], x, mask)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("edges", "match"),
    [
        ([{"source": "point", "target": "sound"}], "unknown modalities"),
        ([{"source": "point", "target": "point"}], "one to itself"),
        ([{"source": "point", "target": "text", "active": 9}], "9 active entries, expected 1 to width=8"),
        ([{"source": "point", "target": "text"}, {"source": "text", "target": "point"}], "two edges"),
    ],
)
def test_edges_that_cannot_be_are_refused(edges, match):
    with pytest.raises(ValueError, match=match):
        PairwiseConfig(modalities=MODALITIES, edges=edges, **SIZES)


def test_a_batch_of_no_edge_and_a_pair_without_a_path_are_refused():
    aligner, (features, _) = make(), batch()
    with pytest.raises(ValueError, match="the edges are point-text, image-text"):
        aligner({"point": features["point"], "image": torch.randn(4, 1, 3)})
    lonely = PairwiseConfig(modalities=MODALITIES, edges=EDGES[:1], **SIZES)
    with pytest.raises(ValueError, match="no pairs join 'image' and 'text'"):
        lonely.path("image", "text")
