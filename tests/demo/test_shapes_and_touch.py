"""Generated training data: seeded, in the demo's frame, and physical where it says so."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from hf_modalbridge.data.recordings import load_biotac
from hf_modalbridge.demo.clouds import load_clouds
from hf_modalbridge.demo.models import point_encoder
from hf_modalbridge.demo.point_batches import PointBatches
from hf_modalbridge.demo.shapes import SHAPE_KINDS, generate_shape
from hf_modalbridge.demo.touch import generate_touch, load_touch
from hf_modalbridge.demo.touch_materials import MATERIALS, UNSEEN_MATERIALS
from hf_modalbridge.encoders import encode, load_encoder, prepare_items

SOFT = next(m for m in MATERIALS if m.name == "foam sponge")
GLASS = next(m for m in MATERIALS if m.name == "window glass")
RIBBED = next(m for m in MATERIALS if m.name == "ribbed plastic")


@pytest.mark.parametrize("kind", SHAPE_KINDS)
def test_every_kind_of_shape_is_normalised_and_seeded(kind):
    for seed in range(20):
        points, got = generate_shape(seed, 256, kind)
        assert got == kind and points.shape == (256, 3) and points.dtype == np.float32
        assert np.linalg.norm(points, axis=1).max() == pytest.approx(1, abs=1e-5)
        assert np.allclose(points.min(0) + points.max(0), 0, atol=1e-5)
    assert np.array_equal(generate_shape(3, 256, kind)[0], generate_shape(3, 256, kind)[0])
    assert not np.array_equal(generate_shape(3, 256, kind)[0], generate_shape(4, 256, kind)[0])


def test_kinds_differ_and_a_wrong_one_is_refused():
    assert len({generate_shape(seed, 32)[1] for seed in range(100)}) == len(SHAPE_KINDS)
    with pytest.raises(ValueError, match="kind 'boat'"):
        generate_shape(0, kind="boat")


def test_the_furniture_clouds():
    clouds = load_clouds("test")
    assert clouds.points.shape == (len(clouds), 1024, 3) and len(clouds) == 142
    assert len(set(load_clouds("train").categories)) == 12
    assert np.allclose(np.linalg.norm(clouds.points, axis=2).max(1), 1, atol=2e-3)
    with pytest.raises(ValueError, match="split 'all'"):
        load_clouds("all")


def test_batches_are_functions_of_the_step():
    clouds = load_clouds("validation").points
    one, two = PointBatches(clouds, 4, 8, seed=1), PointBatches(clouds, 4, 8, seed=1)
    one(0)
    a, b = one(7), two(7)
    assert all((a[key] == b[key]).all() for key in a) and a["mask_noise"].shape == (4, 8)
    other = PointBatches(clouds, 4, 8, seed=2)(7)
    assert (a["mask_noise"] != other["mask_noise"]).any()
    assert 512 <= a["point_values"].shape[1] <= 1024


def test_batches_know_the_kinds_of_generated_shapes():
    clouds = load_clouds("validation").points
    kinds = PointBatches(clouds, 8, 8, generated=1.0, seed=1)(3)["kinds"]
    assert [SHAPE_KINDS[int(kind)] for kind in kinds] == [generate_shape([1, 3, place], 32)[1] for place in range(8)]
    assert (PointBatches(clouds, 8, 8, generated=0.0)(3)["kinds"] == -100).all()


def bands(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spectrum of the vibration of the last three seconds: frequencies and amplitudes."""
    signal = values[100:, 3:25].reshape(-1)
    return np.fft.rfftfreq(len(signal), 1 / 2200), np.abs(np.fft.rfft(signal - signal.mean()))


def test_recordings_are_seeded_and_of_the_layout():
    a, b = generate_touch(SOFT, 0), generate_touch(SOFT, 0)
    assert a.shape == (400, 44) and a.dtype == np.float32 and np.isfinite(a).all()
    assert np.array_equal(a, b) and not np.array_equal(a, generate_touch(SOFT, 1))


def test_a_periodic_texture_hums_at_speed_over_wavelength():
    frequency, amplitude = bands(generate_touch(RIBBED, 3))
    peak = frequency[amplitude.argmax()]
    assert 18 / RIBBED.wavelength < peak < 42 / RIBBED.wavelength, "30 mm/s, give or take three deviations"
    half = dataclasses.replace(RIBBED, wavelength=RIBBED.wavelength / 2)
    frequency, amplitude = bands(generate_touch(half, 3))
    assert frequency[amplitude.argmax()] == pytest.approx(2 * peak, rel=0.05), "the same seed, the same speed"


def test_roughness_stick_slip_warmth_and_softness_show():
    rougher = dataclasses.replace(SOFT, amplitude=SOFT.amplitude * 4)
    assert generate_touch(rougher, 0)[:, 3:25].std() > 1.5 * generate_touch(SOFT, 0)[:, 3:25].std()
    even = dataclasses.replace(GLASS, static_friction=GLASS.kinetic_friction)
    assert generate_touch(GLASS, 0)[:, 3:25].std() > 1.5 * generate_touch(even, 0)[:, 3:25].std(), "slips ring"
    metal = dataclasses.replace(SOFT, effusivity=8.0)
    cold, warm = generate_touch(metal, 0), generate_touch(SOFT, 0)
    assert cold[-1, 0] < warm[-1, 0] - 5 and cold[0, 1] > warm[0, 1] + 5, "metal takes the finger's heat"
    hard = generate_touch(dataclasses.replace(SOFT, modulus=50000), 0)
    levels = [x[-50:, 25:].mean(0) for x in (warm, hard)]
    share = [np.median(level) / level.max() for level in levels]
    assert share[0] > 1.3 * share[1], "a soft material touches more of the tip"


def test_specimens_of_a_material_differ_around_it():
    drawn = [RIBBED.specimen(seed) for seed in range(400)]
    assert drawn[3] == RIBBED.specimen(3) != drawn[4] and {m.name for m in drawn} == {RIBBED.name}
    for name, deviation in (("wavelength", 0.6), ("modulus", 0.9), ("effusivity", 0.42)):
        logs = np.log([getattr(m, name) / getattr(RIBBED, name) for m in drawn])
        assert abs(logs.mean()) < 0.15 and logs.std() == pytest.approx(deviation, rel=0.15)
    assert all(m.static_friction >= m.kinetic_friction and 0 <= m.irregularity <= 1 for m in drawn)
    recording = generate_touch(drawn[0], 5)
    assert np.isfinite(recording).all() and not np.array_equal(recording, generate_touch(drawn[1], 5))


def test_splits_do_not_share_recordings_or_materials():
    train, test, unseen = (load_touch(split, per_material=1) for split in ("train", "test", "unseen"))
    assert len(train) == len(test) == 20 and len(unseen) == 4
    assert not set(train.ids) & set(test.ids) and not set(train.materials) & set(unseen.materials)
    assert train.values.shape == (20, 400, 44)
    assert not np.array_equal(train.values[0], test.values[0])
    with pytest.raises(ValueError, match="split 'validation'"):
        load_touch("validation")


def test_descriptions_say_what_the_parameters_are():
    sentences = [m.description for m in (*MATERIALS, *UNSEEN_MATERIALS)]
    assert len(set(sentences)) == 24
    assert "very soft" in SOFT.description and "hard" in GLASS.description
    assert "sticks and slips" in GLASS.description and "slides evenly" in SOFT.description
    assert "regular texture" in RIBBED.description and "cold" in MATERIALS[0].description


def test_biotac_file(tmp_path):
    file = tmp_path / "b.npz"
    x = np.random.default_rng(0).normal(size=(6, 4, 44)).astype(np.float32)
    np.savez(file, x=x, y=[1, 0, 0, 1, 0, 1], n=[41, 50, 1, 2, 40, 1], name=["a", "b"], desc=["soft", "hard"])
    train, test = load_biotac(file, "train"), load_biotac(file, "test")
    assert train.ids == ["biotac-00-01", "biotac-00-40", "biotac-01-01", "biotac-01-02"]
    assert np.array_equal(train.values, x[[2, 4, 5, 3]]) and train.descriptions == ["soft", "soft", "hard", "hard"]
    assert test.materials == ["a", "b"]
    np.savez(tmp_path / "c.npz", x=x)
    with pytest.raises(ValueError, match="lacks y, n"):
        load_biotac(tmp_path / "c.npz", "train")
    with pytest.raises(FileNotFoundError):
        load_biotac(tmp_path / "d.npz", "train")


def test_the_point_encoder_that_comes_with_the_package():
    try:
        folder = point_encoder()
    except FileNotFoundError:
        pytest.skip("this package was built without its weights (recipes/pretrain_points.py --ship)")
    made = json.loads((folder / "made.json").read_text())
    assert made["recipe"] == "recipes/pretrain_points.py" and made["settings"]["training"]["seed"] == 0
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6e6
    model, extractor = load_encoder(folder, dtype="float32")
    clouds = load_clouds("test").points[:2]
    rows = encode(model, "point", prepare_items(extractor, "point", list(clouds)))
    assert rows.shape == (2, 384) and 0.2 < float(rows[0] @ rows[1]) < 0.9999
