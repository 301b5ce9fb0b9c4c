"""All corrections: formulas, precision inside models, encoders, saving and loading."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from correction_world import double, fingerprint, make_store, two_sides
from safetensors.torch import load_file, save_file
from torch import nn

from hf_modalbridge import C3, AutoCorrection, C3Shift, Correction, MeanShift, NoCorrection, ReAlign
from hf_modalbridge.corrections import apply_correction

ALL = [NoCorrection, MeanShift, C3, C3Shift, ReAlign]


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def sides() -> tuple[np.ndarray, np.ndarray]:
    return two_sides()


def test_closed_forms(sides):
    y, x = sides
    expected = {
        NoCorrection: y,
        MeanShift: unit(y - y.mean(0) + x.mean(0)),
        C3: unit(y - y.mean(0)),
        C3Shift: unit(y - y.mean(0) + x.mean(0)),
    }
    for kind, rows in expected.items():
        got = kind.fit(y, x)(double(y)).numpy()
        assert np.abs(got - rows).max() < 1e-12, kind.__name__


@pytest.mark.parametrize("kind", ALL)
def test_target_and_its_standardisation(sides, kind):
    y, x = sides
    correction = kind.fit(y, x)
    z = correction.transform_target(double(3 * x)).numpy()
    assert np.abs(z - (unit(x - x.mean(0)) if kind is C3 else x)).max() < 1e-12
    standard = correction.standardize(torch.from_numpy(z)).numpy()
    assert np.abs(standard.mean(0)).max() < 1e-9
    assert np.mean(standard**2) == pytest.approx(1, rel=1e-9), "numbers of size one"
    by_hand = (z - z.mean(0)) * math.sqrt(24 / np.mean(np.sum((z - z.mean(0)) ** 2, 1)))
    assert np.abs(standard - by_hand).max() < 1e-9


@pytest.mark.parametrize(("kind", "shift"), [(C3, False), (C3Shift, True)])
def test_c3_noise_is_isotropic_of_the_given_norm_and_only_in_training(sides, kind, shift):
    y, x = sides
    correction = kind.fit(y, x, noise_norm=0.5)
    assert not correction.training and correction.noise_sigma == pytest.approx(0.5 / math.sqrt(24))
    row = double(y[:1]).repeat(20_000, 1)
    assert torch.equal(correction(row)[0], correction(row)[1]), "no noise in eval mode"
    for call in (
        lambda: correction(row, noise=True, generator=torch.Generator().manual_seed(0)),
        lambda: correction.train()(row, generator=torch.Generator().manual_seed(0)),
    ):
        noisy = call()
        clean = y[0] - y.mean(0) + (x.mean(0) if shift else 0)
        draw = torch.randn(row.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
        expected = unit(clean + 0.5 / math.sqrt(24) * draw)
        assert np.abs(noisy.numpy() - expected).max() < 1e-12
        assert np.mean(np.linalg.norm(0.5 / math.sqrt(24) * draw, axis=1)) == pytest.approx(0.5, rel=0.02)
    assert torch.equal(correction(row, noise=False)[0], correction(row, noise=False)[1])


def test_the_two_variants_of_c3_differ_in_where_they_put_things(sides):
    y, x = sides
    own, shifted = C3.fit(y, x), C3Shift.fit(y, x)
    assert own.noise_norm == pytest.approx(math.sqrt(0.016 * 512), abs=0.01), "the release's noise"
    assert shifted.noise_norm == pytest.approx(0.02 * math.sqrt(1280), abs=0.01)
    gap_own = np.linalg.norm(own(double(y)).mean(0).numpy() - x.mean(0))
    gap_shifted = np.linalg.norm(shifted(double(y)).mean(0).numpy() - x.mean(0))
    assert gap_own == pytest.approx(np.linalg.norm(x.mean(0)), rel=0.3) and gap_shifted < gap_own / 2
    with pytest.raises(ValueError, match="noise_norm"):
        C3.fit(y, x, noise_norm=-1)


class Holder(nn.Module):
    def __init__(self, correction: Correction):
        super().__init__()
        self.linear = nn.Linear(24, 24)
        self.correction = correction


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    "cast", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.to(dtype=torch.float32)]
)
def test_statistics_survive_casts_of_the_model_around_them(sides, kind, cast):
    correction = kind.fit(*sides)
    before = {name: value.clone() for name, value in correction.state_dict().items()}
    model = cast(Holder(correction))
    assert model.linear.weight.dtype != torch.float64
    for name, value in model.correction.state_dict().items():
        assert value.dtype == torch.float64 and torch.equal(value, before[name]), name
    y = torch.from_numpy(sides[0]).bfloat16()
    out = model.correction(y)
    assert out.dtype == torch.bfloat16
    exact = correction(y.double())
    assert (out.double() - exact).abs().max() < 2**-8, "only the rounding of the output"
    assert not list(correction.parameters())


def test_statistics_reach_meta_and_back(sides):
    correction = ReAlign.fit(*sides)
    with torch.device("meta"):
        empty = AutoCorrection.from_config(correction.to_config())
    assert all(value.is_meta and value.dtype == torch.float64 for value in empty.state_dict().values())
    assert correction.to("cpu").scale.dtype == torch.float64


@pytest.mark.parametrize("kind", ALL)
def test_saved_and_loaded_is_identical(sides, kind, tmp_path):
    y, x = sides
    hyper = {"noise_norm": 0.3} if kind in (C3, C3Shift) else {}
    encoders = {"source_encoder": fingerprint(), "target_encoder": fingerprint(modality="image")}
    correction = kind.fit(y, x, **encoders, **hyper)
    correction.save_pretrained(tmp_path / "c")
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [
        "README.md",
        "config.json",
        "correction.safetensors",
    ]
    for loaded in (kind.from_pretrained(tmp_path / "c"), AutoCorrection.from_pretrained(str(tmp_path / "c"))):
        assert type(loaded) is kind and not loaded.training
        assert loaded.to_config() == correction.to_config()
        state, expected = loaded.state_dict(), correction.state_dict()
        assert state.keys() == expected.keys() and all(torch.equal(state[k], expected[k]) for k in state)
        assert torch.equal(loaded(double(y)), correction(double(y)))
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert (config["source_rows"], config["target_rows"]) == (700, 500)
    assert config["target_encoder"]["modality"] == "image"
    card = (tmp_path / "c" / "README.md").read_text()
    assert kind.correction_type in card and "clip@main" in card and "700" in card


def test_a_correction_is_read_out_of_a_whole_model(sides, tmp_path):
    correction = ReAlign.fit(*sides)
    other = C3.fit(*sides)
    for prefix in ("model.corrections", "corrections"):
        folder = tmp_path / prefix
        folder.mkdir()
        tensors = {f"{prefix}.image.{k}": v for k, v in correction.state_dict().items()}
        tensors |= {f"{prefix}.touch.{k}": v for k, v in other.state_dict().items()}
        save_file(tensors, folder / "correction.safetensors")
        modalities = {
            "image": {"correction_config": correction.to_config()},
            "touch": {"correction_config": other.to_config()},
            "sound": {"correction_config": None},
        }
        config = {"model_type": "modalbridge", "modalities": modalities}
        (folder / "config.json").write_text(json.dumps(config))
        loaded = AutoCorrection.from_pretrained(folder, modality="image")
        assert torch.equal(loaded.drift_mean, correction.drift_mean)
        assert type(AutoCorrection.from_pretrained(folder, modality="touch")) is C3
        with pytest.raises(KeyError, match="sound.*image, touch"):
            AutoCorrection.from_pretrained(folder, modality="sound")
        with pytest.raises(KeyError, match="modality="):
            AutoCorrection.from_pretrained(folder)


def test_bad_files_are_refused(sides, tmp_path):
    correction = ReAlign.fit(*sides)
    folder = tmp_path / "c"
    correction.save_pretrained(folder)
    tensors, config = (
        load_file(folder / "correction.safetensors"),
        json.loads((folder / "config.json").read_text()),
    )

    def with_tensors(**changes):
        merged = {k: v for k, v in (tensors | changes).items() if v is not None}
        save_file(merged, folder / "correction.safetensors")
        return AutoCorrection.from_pretrained(folder)

    with pytest.raises(ValueError, match="missing.*drift_mean"):
        with_tensors(drift_mean=None)
    with pytest.raises(ValueError, match="superfluous.*extra"):
        with_tensors(extra=torch.zeros(1))
    with pytest.raises(ValueError, match=r"scale is \(2,\)"):
        with_tensors(scale=torch.ones(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="float32, expected"):
        with_tensors(scale=torch.tensor(1.0))
    with pytest.raises(ValueError, match="NaN"):
        with_tensors(scale=torch.tensor(float("nan"), dtype=torch.float64))
    (folder / "correction.safetensors").write_bytes(b"garbage")
    with pytest.raises(ValueError, match="damaged"):
        AutoCorrection.from_pretrained(folder)

    def with_config(**changes):
        merged = {k: v for k, v in (config | changes).items() if v is not None}
        return AutoCorrection.from_config(merged)

    with pytest.raises(KeyError, match="no 'dim'"):
        with_config(dim=None)
    with pytest.raises(KeyError, match="'warp'.*realign"):
        with_config(correction_type="warp")
    with pytest.raises(ValueError, match="unknown keys: colour"):
        with_config(colour=1)
    with pytest.raises(ValueError, match="format version 9"):
        with_config(format_version=9)
    with pytest.raises(ValueError, match="'realign', not 'c3'"):
        C3.from_config(config)
    with pytest.raises(FileNotFoundError, match="no config.json"):
        AutoCorrection.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no statistics"):
        ReAlign(24).save_pretrained(tmp_path / "empty")


@pytest.mark.parametrize("kind", ALL)
def test_bad_rows_of_a_call_are_refused(sides, kind):
    correction = kind.fit(*sides)
    rows = double(sides[0][:5]).clone()
    rows[3] = 0
    for call in (correction, correction.transform_target):
        with pytest.raises(ValueError, match="only zeros: row 3"):
            call(rows)
        with pytest.raises(ValueError, match=r"\(n, 24\), got \(5, 23\)"):
            call(rows[:, :23])


def test_embeddings_of_another_encoder_are_refused(sides, tmp_path):
    y, x = sides
    text, image, other = fingerprint(), fingerprint(modality="image"), fingerprint("siglip", first=-0.4)
    stores = make_store(tmp_path / "y", y, text), make_store(tmp_path / "x", x, image)
    correction = ReAlign.fit(*stores)
    assert correction.source_encoder == text and correction.target_encoder == image
    correction.check_encoder(fingerprint("a/local/copy"), "source")
    correction.check_encoder(None, "source")
    with pytest.raises(ValueError, match="clip@main.*siglip@main"):
        correction.check_encoder(other, "source")
    with pytest.raises(ValueError, match="text.*image"):
        correction.check_encoder(image, "source")
    with pytest.raises(ValueError, match="siglip"):
        apply_correction(correction, make_store(tmp_path / "z", y, other), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_applying_to_a_store_keeps_ids_and_columns(sides, tmp_path):
    y, x = sides
    store = make_store(tmp_path / "y", y, fingerprint(), dtype="float32")
    correction = ReAlign.fit(store, x, target_encoder=fingerprint(modality="image"))
    out = apply_correction(correction, store, tmp_path / "out", batch_size=64)
    assert out.ids == store.ids and out.column("text") == store.column("text")
    assert out.dtype == np.float32 and out.encoder == fingerprint(modality="image")
    assert np.abs(out[:] - correction(torch.from_numpy(store[:])).numpy()).max() < 1e-7
    out.verify()
    with pytest.raises(FileExistsError):
        apply_correction(correction, store, tmp_path / "out")
    with pytest.raises(ValueError, match="is the store that is read"):
        apply_correction(correction, store, tmp_path / "y", overwrite=True)
    images = make_store(tmp_path / "x", x)
    target = apply_correction(C3.fit(store, x), images, tmp_path / "centred", side="target")
    assert np.abs(target[:] - unit(x - x.mean(0))).max() < 1e-7


def test_an_interrupted_application_goes_on(sides, tmp_path, monkeypatch):
    from hf_modalbridge import EmbeddingStore, EmbeddingStoreWriter

    y, x = sides
    store = make_store(tmp_path / "y", y, dtype="float32")
    correction = ReAlign.fit(store, x)
    whole = apply_correction(correction, store, tmp_path / "whole", batch_size=64)
    append, calls = EmbeddingStoreWriter.append, []

    def failing(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        append(self, *args, **kwargs)

    monkeypatch.setattr(EmbeddingStoreWriter, "append", failing)
    with pytest.raises(KeyboardInterrupt):
        apply_correction(correction, store, tmp_path / "out", batch_size=64)
    monkeypatch.setattr(EmbeddingStoreWriter, "append", append)
    assert len(EmbeddingStore.open(tmp_path / "out", allow_incomplete=True)) == 256
    out = apply_correction(correction, store, tmp_path / "out", batch_size=100, resume=True)
    assert np.array_equal(out[:], whole[:]) and out.ids == whole.ids


def test_gradients_pass_to_a_trained_source_encoder(sides):
    correction = ReAlign.fit(*sides)
    rows = double(sides[0][:3]).requires_grad_()
    assert torch.autograd.gradcheck(correction, (rows,))
