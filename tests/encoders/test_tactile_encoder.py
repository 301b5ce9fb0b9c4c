"""Touch encoders of both layouts, their extractor, and masked reconstruction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_bridges import ask, make_lm, make_tokenizer
from transformers import AutoFeatureExtractor, AutoModel

from hf_modalbridge import ModalBridgeForConditionalGeneration, ModalBridgeProcessor, list_encoders
from hf_modalbridge.encoders import (
    PointEncoder,
    PointEncoderConfig,
    PointFeatureExtractor,
    TactileEncoder,
    TactileEncoderConfig,
    TactileEncoderForPreTraining,
    TactileFeatureExtractor,
    encode,
    encoder_dim,
    load_encoder,
    prepare_items,
    readable_modalities,
)

TINY = {
    "num_samples": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.2,
}
TINY_POINTS = {**TINY, "num_groups": 8, "group_size": 8, "point_dims": [8, 12, 12]}
del TINY_POINTS["num_samples"]
VIT = {"image_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def recording(frames: int = 40, seed: int = 0, channels: int = 44) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, channels))


def make(**changes) -> TactileEncoder:
    torch.manual_seed(0)
    return TactileEncoder(TactileEncoderConfig(**{**TINY, **changes})).eval()


EXTRACTOR = TactileFeatureExtractor(num_samples=40)


def test_series_shapes_batches_and_reload(tmp_path):
    model = make()
    items = [recording(40), recording(25, 1), recording(90, 2)]
    out = model(**EXTRACTOR(items))
    assert out.last_hidden_state.shape == (3, 5, 16) == (3, model.config.num_tokens, 16)
    assert out.pooler_output.shape == (3, 32) and encoder_dim(model.config) == 32
    for row, item in zip(out.last_hidden_state, items, strict=True):
        assert torch.allclose(model(**EXTRACTOR(item)).last_hidden_state[0], row, atol=1e-5)
    rows = encode(model, "touch", prepare_items(EXTRACTOR, "touch", items))
    assert rows.shape == (3, 32) and (rows[0] - rows[1]).abs().max() > 0.01
    model.save_pretrained(tmp_path)
    EXTRACTOR.save_pretrained(tmp_path)
    other, extractor = load_encoder(tmp_path)
    assert torch.equal(other(**extractor(items)).pooler_output, out.pooler_output)
    assert isinstance(AutoFeatureExtractor.from_pretrained(tmp_path), TactileFeatureExtractor)
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)(**EXTRACTOR(items)).pooler_output
    assert torch.nn.functional.cosine_similarity(half.float(), out.pooler_output).min() > 0.99


def test_images(tmp_path):
    model = make(layout="image", vision_config=VIT)
    extractor = TactileFeatureExtractor(layout="image", image_size=32)
    pictures = [np.random.default_rng(seed).integers(0, 256, (48, 40, 3), dtype=np.uint8) for seed in (0, 1)]
    out = model(**extractor(pictures))
    assert out.last_hidden_state.shape == (2, 5, 16) == (2, model.config.num_tokens, 16)
    assert torch.equal(out.pooler_output, out.last_hidden_state[:, 0]) and encoder_dim(model.config) == 16
    assert encode(model, "touch", prepare_items(extractor, "touch", pictures)).shape == (2, 16)
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    other, extractor = load_encoder(tmp_path)
    assert torch.equal(other(**extractor(pictures)).pooler_output, out.pooler_output)
    with pytest.raises(ValueError, match="no pixel_values"):
        model(**EXTRACTOR(recording()))
    with pytest.raises(ValueError, match="ViTForMaskedImageModeling"):
        TactileEncoderForPreTraining(model.config)


def test_the_spectrum_sees_strength_and_pitch_not_phase():
    config = TactileEncoderConfig(**{**TINY, "num_samples": 10})
    patches = TactileEncoder(config).patches
    time = np.arange(220) / 2200

    def bands(hertz: float, phase: float = 0.0, strength: float = 1.0) -> np.ndarray:
        x = torch.zeros(1, 10, 44)
        x[0, :, 3:25] = torch.from_numpy(strength * np.sin(2 * np.pi * hertz * time + phase)).float().view(10, 22)
        features, targets = patches(x)
        assert features.shape == (1, 1, 44 * 10 + 16) and targets.shape == (1, 1, 22 * 10 + 16)
        assert torch.equal(features[..., -16:], targets[..., -16:])
        return features[0, 0, -16:].numpy()

    assert np.allclose(bands(300), bands(300, 1.3), atol=0.05)
    assert bands(300).argmax() < bands(900).argmax()
    assert bands(300, strength=3).max() > bands(300).max() + 1
    want = np.abs(np.fft.rfft((s := np.sin(2 * np.pi * 300 * time)) - s.mean(), 220)) ** 2  # no window: same place
    place = int(np.log(want[1:].argmax() + 1) / np.log(111) * 16)
    assert bands(300).argmax() == place


def test_statistics_are_fitted_and_kept(tmp_path):
    items = [recording(40, seed) * 3 + 5 for seed in range(4)]
    extractor = TactileFeatureExtractor(num_samples=40).fit(items)
    rows = np.concatenate(items)
    assert np.allclose(extractor.mean[0], rows[:, 0].mean()) and np.allclose(extractor.std[30], rows[:, 30].std())
    assert np.allclose(extractor.mean[3], rows[:, 3:25].mean()) and extractor.std[3] == extractor.std[24]
    values = extractor(items)["touch_values"]
    assert values[..., 0].mean().abs() < 1e-5 and values[..., 0].std() == pytest.approx(1, abs=0.01)
    extractor.save_pretrained(tmp_path)
    assert torch.equal(TactileFeatureExtractor.from_pretrained(tmp_path)(items)["touch_values"], values)


def test_lengths_and_rates():
    line = np.linspace(0, 1, 80)[:, None] * np.ones(44)
    stretched = EXTRACTOR(line)["touch_values"][0, :, 0].numpy()
    assert (
        np.allclose(stretched, np.linspace(0, 1, 40), atol=0.02) and len(EXTRACTOR(line[:7])["touch_values"][0]) == 40
    )
    cut = EXTRACTOR(line, sampling_rate=100)["touch_values"][0, :, 0].numpy()
    assert np.allclose(cut, line[20:60, 0]), "a known rate: the middle, not stretched"
    assert np.allclose(EXTRACTOR(line[:20], sampling_rate=100)["touch_values"][0, :10, 0], 0)
    half = EXTRACTOR({"array": line, "sampling_rate": 200})["touch_values"][0, :, 0].numpy()
    assert np.allclose(half, np.linspace(0, 1, 40), atol=0.02)
    # a tone on the fast signal keeps its pitch for a known rate, as the signal is taken in its own time
    tone = np.zeros((80, 44))
    tone[:, 3:25] = np.sin(2 * np.pi * 110 * np.arange(80 * 22) / 4400).reshape(80, 22)
    fast = EXTRACTOR(tone, sampling_rate=200)["touch_values"][0, :, 3:25].reshape(-1).numpy()
    assert np.abs(np.fft.rfft(fast)).argmax() == round(110 * 880 / 2200)


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        (np.full((40, 44), np.nan), ValueError, "NaN or infinite numbers in 40 of 40"),
        (recording(40, channels=43), ValueError, r"\(40, 43\).*\(frames, 44\)"),
        (recording(1), ValueError, "two frames or more"),
        (np.zeros((40, 44), dtype=object), ValueError, "dtype object"),
        ("/no/such.npy", FileNotFoundError, "no .npy file"),
        ({1}, TypeError, "of type set"),
        ([], ValueError, "no items"),
    ],
)
def test_wrong_recordings(item, error, message):
    with pytest.raises(error, match=message):
        EXTRACTOR(item)


def test_files_are_checked_before_they_are_read(tmp_path):
    np.save(tmp_path / "a.npy", recording())
    assert torch.equal(EXTRACTOR(tmp_path / "a.npy")["touch_values"], EXTRACTOR(recording())["touch_values"])
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (900000000000, 44)}"
    head += b" " * (118 - len(head) - 1) + b"\n"
    (tmp_path / "huge.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + head)
    with pytest.raises(ValueError, match="claims an array"):
        EXTRACTOR(tmp_path / "huge.npy")


def test_pretraining_learns_what_neighbours_tell():
    torch.manual_seed(0)
    model = TactileEncoderForPreTraining(TactileEncoderConfig(**{**TINY, "initializer_range": 0.02}))
    slow = np.sin(np.arange(40) / 15 + np.random.default_rng(0).uniform(0, 6, (8, 1)))[:, :, None] * np.ones(44)
    inputs = EXTRACTOR(list(slow))
    noise = torch.rand(8, 4)
    first = model(**inputs, mask_noise=noise)
    assert first.reconstruction.shape == first.target.shape == (8, 2, 22 * 10 + 16)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(80):
        loss = model(**inputs, mask_noise=noise).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * first.loss.item()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "sound"}, "layout 'sound'"),
        ({"patch_samples": 7}, "patch_samples 7 does not divide"),
        ({"num_channels": 6}, "for 6 channels"),
        ({"layout": "image", "pooling": "max"}, "pooling 'max'"),
        ({"embedding_dim": 5}, "gives 32"),
    ],
)
def test_wrong_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        TactileEncoderConfig(**{**TINY, **changes})


def test_series_without_a_fast_signal():
    model = make(num_channels=6, fast_channels=None)
    extractor = TactileFeatureExtractor(num_channels=6, num_samples=40, fast_channels=None)
    assert model(**extractor(recording(channels=6))).pooler_output.shape == (1, 32)
    with pytest.raises(ValueError, match=r"\(batch, 40, 6\)"):
        model(**EXTRACTOR(recording()))


def test_both_are_in_the_registry():
    known = list_encoders()
    assert known["modalbridge_point_encoder"].modalities == ("point",)
    assert known["modalbridge_tactile_encoder"].modalities == ("touch",)
    assert readable_modalities(make()) == ("touch",)


@pytest.mark.parametrize("modality", ["point", "touch"])
def test_a_bridge_with_the_encoder_answers_the_same_after_reloading(modality, tmp_path):
    torch.manual_seed(0)
    if modality == "point":
        encoder, extractor = PointEncoder(PointEncoderConfig(**TINY_POINTS)).eval(), PointFeatureExtractor()
        item = np.random.default_rng(0).normal(size=(60, 3))
    else:
        encoder, extractor, item = make(), EXTRACTOR, recording()
    model, processor = ModalBridgeForConditionalGeneration.from_components(
        language_model=make_lm(),
        tokenizer=make_tokenizer(),
        modalities={modality: {"encoder": encoder, "encoder_processor": extractor, "num_tokens": 2}},
    )

    def answer(model, processor):
        chat = ask(None, modality=modality)
        options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
        inputs = processor.apply_chat_template(chat, **{modality: [item]}, **options)
        return model.generate(**inputs, max_new_tokens=6, do_sample=False)

    want = answer(model, processor)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = ModalBridgeForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert torch.equal(answer(again, ModalBridgeProcessor.from_pretrained(tmp_path)), want)
    rows = encode(again.model.encoders[modality], modality, prepare_items(extractor, modality, [item]))
    assert torch.equal(rows, encode(encoder, modality, prepare_items(extractor, modality, [item])))
