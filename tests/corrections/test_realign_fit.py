"""ReAlign against the paper's formulas, streamed, in parts, in any precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from correction_world import clip_features, double, make_store, naive_realign, two_sides

from hf_modalbridge import ReAlign
from hf_modalbridge.corrections import drift_moments, unit_moments
from hf_modalbridge.functional import Moments, realign


def check_against_formulas(source: np.ndarray, target: np.ndarray) -> None:
    expected = naive_realign(source, target)
    correction = ReAlign.fit(source, target)
    for buffer, key in (
        ("source_mean", "mu_y"),
        ("target_mean", "mu_x"),
        ("source_trace", "t_y"),
        ("target_trace", "t_x"),
        ("scale", "s"),
        ("drift_mean", "drift"),
        ("output_mean", "mu_x"),
        ("output_trace", "t_x"),
    ):
        assert np.abs(getattr(correction, buffer).numpy() - expected[key]).max() < 1e-6, buffer
    assert np.abs(correction(double(source)).numpy() - expected["out"]).max() < 1e-9
    assert np.abs(correction(torch.from_numpy(source).float()).numpy() - expected["out"]).max() < 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_random_anisotropic_data(seed):
    check_against_formulas(*two_sides(dim=[3, 24, 100, 257][seed], seed=seed))


@pytest.mark.skipif(clip_features() is None, reason="needs features_clip.npy (MODALBRIDGE_SHARED_DATA)")
def test_real_clip_embeddings():
    image, text = clip_features()
    check_against_formulas(text, image)
    moved = ReAlign.fit(text, image)(torch.from_numpy(text)).numpy()
    before, after = [np.linalg.norm(x.mean(0) - image.mean(0)) for x in (text, moved)]
    assert before > 0.5 and after < before / 100


def test_the_fit_takes_rows_of_any_length():
    source, target = two_sides()
    lengths = np.random.default_rng(1).uniform(0.1, 50, size=(len(source), 1))
    check_against_formulas(source * lengths, target * 3)


def test_stores_arrays_tensors_and_lists_of_parts_agree(tmp_path):
    source, target = two_sides()
    reference = ReAlign.fit(source, target).state_dict()
    stores = [make_store(tmp_path / "a", source), make_store(tmp_path / "b", target)]
    for a, b in (
        stores,
        (double(source), double(target)),
        ([source[:13], stores[0].__class__.open(tmp_path / "a")[13:]], target),
    ):
        for batch_size in (1, 64, 10_000):
            for name, value in ReAlign.fit(a, b, batch_size=batch_size).state_dict().items():
                assert (value - reference[name]).abs().max() < 1e-12, (name, batch_size)


def test_seven_uneven_parts_merge_to_the_whole():
    source, target = two_sides(2000, 1500, 64)
    whole = ReAlign.fit(source, target)

    def parts(x):
        return np.split(x, [1, 3, 200, 777, 1000, 1301])

    def merge(moments):
        total = Moments.empty(64)
        for part in moments:
            total = total.merge(part)
        return total

    source_moments = merge(unit_moments(part) for part in parts(source))
    target_moments = merge(unit_moments(part) for part in parts(target))
    drift = merge(drift_moments(part, source_moments, target_moments) for part in parts(source))
    merged = ReAlign.from_moments(source_moments, target_moments, drift)
    for name, value in merged.state_dict().items():
        assert (value - whole.state_dict()[name]).abs().max() < 1e-12, name
    assert (merged.source_rows, merged.target_rows) == (2000, 1500)


def test_float16_stores_merge_to_1e12_too(tmp_path):
    source, _ = two_sides(1000, 10, 64)
    whole = unit_moments(make_store(tmp_path / "whole", source, dtype="float16"))
    merged = Moments.empty(64)
    for number, part in enumerate(np.split(source, [1, 3, 200, 400, 650, 651])):
        merged = merged.merge(unit_moments(make_store(tmp_path / str(number), part, dtype="float16")))
    assert (merged.mean - whole.mean).abs().max() < 1e-12 and abs(merged.trace - whole.trace) < 1e-12


def test_the_number_of_threads_does_not_change_a_bit():
    source, target = two_sides(3000, 2000, 64)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(ReAlign.fit(source, target, batch_size=100).state_dict())
            assert torch.get_num_threads() == threads, "the fit leaves torch's setting as it was"
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_passes_over_the_data(tmp_path):
    source, target = two_sides()

    class Counting:
        encoder = None

        def __init__(self, x):
            self.x, self.dim, self.passes = x, x.shape[1], 0

        def __len__(self):
            return len(self.x)

        def iter_batches(self, batch_size, *, dtype=None):
            self.passes += 1
            for start in range(0, len(self.x), batch_size):
                yield np.arange(start, start + batch_size), self.x[start : start + batch_size]

    a, b = Counting(source), Counting(target)
    ReAlign.fit(a, b)
    assert (a.passes, b.passes) == (2, 1)


def test_the_corrected_mean_lies_on_the_targets():
    source, target = two_sides(5000, 5000)
    moved = ReAlign.fit(source, target)(double(source)).numpy()
    gap = np.linalg.norm(moved.mean(0) - target.mean(0))
    assert gap < 0.01 * np.linalg.norm(source.mean(0) - target.mean(0))
    assert np.allclose(np.linalg.norm(moved, axis=1), 1)


def test_identical_sides_stay_where_they_are():
    source, _ = two_sides()
    moved = ReAlign.fit(source, source)(double(source)).numpy()
    assert np.abs(moved - source).max() < 1e-9


def test_the_pure_function_is_the_module():
    source, target = two_sides()
    c = ReAlign.fit(source, target)
    pure = realign(double(source), c.source_mean, c.target_mean, c.scale, c.drift_mean)
    assert torch.equal(pure, c(double(source)))


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_bad_rows_of_a_fit_are_listed(side, value):
    sides = dict(zip(("source", "target"), two_sides(300, 300), strict=True))
    sides[side][7] = value
    sides[side][250] = value
    with pytest.raises(ValueError, match=f"2 of .* rows of the {side}.*row 7, 250"):
        ReAlign.fit(**sides)


def test_bad_fits_are_refused():
    source, target = two_sides()
    with pytest.raises(ValueError, match="differ in width: 24 and 20"):
        ReAlign.fit(source, target[:, :20])
    with pytest.raises(ValueError, match="source is empty"):
        ReAlign.fit(source[:0], target)
    with pytest.raises(ValueError, match="point the same way"):
        ReAlign.fit(source, np.ones_like(target))
    with pytest.raises(TypeError, match="no hyper-parameter noise_norm"):
        ReAlign.fit(source, target, noise_norm=1)
    with pytest.raises(TypeError, match="source is a str"):
        ReAlign.fit("path", target)
    with pytest.raises(ValueError, match="floating point rows"):
        ReAlign.fit(source[0], target)
