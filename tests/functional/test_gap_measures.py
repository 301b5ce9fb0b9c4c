"""Every measure of the gap against its formula written out in float64, and its known limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import NearestNeighbors

from hf_modalbridge.functional import gap, gap_angles, gap_neighbors, gap_pairs
from hf_modalbridge.functional.resampling import (
    GroupedMoments,
    interval,
    mean_replicates,
    normal_interval,
    resample_weights,
)


def unit_rows(rows: int, dim: int = 12, seed: int = 0, shift: float = 0.5, power: float = 0.6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, dim)) * np.arange(1, dim + 1) ** -power @ np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    x += shift * rng.normal(size=dim)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


@pytest.fixture(scope="module")
def sides() -> tuple[np.ndarray, np.ndarray]:
    return unit_rows(160, seed=1), unit_rows(160, seed=2, power=1.0)


def covariance(x: np.ndarray) -> np.ndarray:
    return np.cov(x.T, bias=True)


def test_covariance_measures_are_their_formulas(sides):
    a, b = (covariance(x) for x in sides)
    spectra = [np.sort(np.linalg.eigvalsh(c))[::-1] for c in (a, b)]
    s = [tensor(x) for x in spectra]
    assert gap.trace_ratio(tensor(a), tensor(b)) == pytest.approx(np.trace(a) / np.trace(b))
    difference = math.sqrt(sum((a[i, j] - b[i, j]) ** 2 for i in range(12) for j in range(12)))
    assert gap.covariance_gap(tensor(a), tensor(b)) == pytest.approx(difference / np.sqrt((b**2).sum()))
    assert np.allclose(gap.sorted_spectrum(tensor(a)), spectra[0])
    expected = stats.pearsonr(np.log(spectra[0]), np.log(spectra[1])).statistic
    assert gap.spectrum_correlation(*s) == pytest.approx(expected)
    tops = [np.linalg.eigh(c)[1][:, ::-1][:, :4] for c in (a, b)]
    overlap = sum((tops[0][:, i] @ tops[1][:, j]) ** 2 for i in range(4) for j in range(4)) / 4
    measured = gap.subspace_overlap(*(gap.top_directions(tensor(c), 4) for c in (a, b)))
    assert measured == pytest.approx(overlap)
    slope = stats.linregress(np.log(np.arange(1, 9)), np.log(spectra[0][:8])).slope
    assert gap.power_law_exponent(s[0], ranks=8) == pytest.approx(-slope)
    assert gap.power_law_exponent(s[0], trace=7.0, ranks=8) == pytest.approx(-slope), "a scale leaves a slope alone"
    p = spectra[0] / spectra[0].sum()
    assert gap.effective_rank(s[0]) == pytest.approx(math.exp(stats.entropy(p)))
    assert gap.participation_ratio(s[0]) == pytest.approx(np.trace(a) ** 2 / np.trace(a @ a))
    assert gap.anisotropy(s[0]) == pytest.approx(spectra[0][0] / (np.trace(a) / 12))
    assert np.allclose(gap.cumulative_energy(s[0]), np.cumsum(p))
    projector = tops[1] @ tops[1].T
    coverage = gap.frame_coverage(tensor(a), tensor(tops[1]))
    assert coverage == pytest.approx(np.trace(projector @ a) / np.trace(a))


def test_limits_of_covariance_measures():
    eye = torch.eye(16, dtype=torch.float64)
    ones = torch.ones(16, dtype=torch.float64)
    assert gap.covariance_gap(eye, eye) == 0 and gap.trace_ratio(2 * eye, eye) == pytest.approx(2)
    assert gap.effective_rank(ones) == pytest.approx(16) and gap.participation_ratio(ones) == pytest.approx(16)
    assert gap.anisotropy(ones) == pytest.approx(1)
    assert gap.power_law_exponent(torch.arange(1, 200, dtype=torch.float64) ** -1.5) == pytest.approx(1.5)
    isotropic = tensor(np.random.default_rng(0).normal(size=(20_000, 16)))
    assert gap.effective_rank(gap.sorted_spectrum(tensor(covariance(isotropic.numpy())))) == pytest.approx(16, abs=0.1)
    with pytest.raises(ValueError, match="q from 1"):
        gap.top_directions(eye, 17)
    few = tensor(covariance(np.random.default_rng(1).normal(size=(5, 16))))
    assert gap.leading_count(gap.sorted_spectrum(few)) == 4
    one_direction = gap.sorted_spectrum(torch.diag(eye[0]))
    assert math.isnan(gap.spectrum_correlation(one_direction, ones))


def test_random_subspaces_overlap_by_q_over_dim():
    rng = np.random.default_rng(0)
    values = [
        gap.subspace_overlap(*(tensor(np.linalg.qr(rng.normal(size=(40, 10)))[0]) for _ in range(2))) for _ in range(50)
    ]
    assert np.mean(values) == pytest.approx(10 / 40, abs=0.01)


def test_sampling_floor_is_right_on_average():
    rng = np.random.default_rng(0)
    spread = np.arange(1, 9) ** -0.5
    squared = []
    for _ in range(400):
        a, b = rng.normal(size=(50, 8)) * spread, rng.normal(size=(80, 8)) * spread
        squared.append(np.sum((a.mean(0) - b.mean(0)) ** 2))
    trace = float((spread**2).sum())
    assert np.sqrt(np.mean(squared)) == pytest.approx(gap.centroid_floor(trace, 50, trace, 80), rel=0.06)


def test_pair_measures_are_their_formulas(sides):
    y, x = sides
    r = (x - x.mean(0)) - (y - y.mean(0))
    assert np.allclose(gap_pairs.residual_rows(tensor(y), tensor(x)), r)
    distance = gap_pairs.paired_distance(tensor(y), tensor(x))
    assert distance == pytest.approx(np.trace(covariance(r)))
    whole = gap_pairs.alignment(tensor(y), tensor(x))
    assert whole == pytest.approx(distance + np.sum((x.mean(0) - y.mean(0)) ** 2)), "the paper's identity"
    assert gap_pairs.alignment(tensor(y), tensor(x), 1.0) == pytest.approx(
        np.mean([np.linalg.norm(a - b) for a, b in zip(x, y, strict=True)])
    )
    cosines = gap_pairs.row_cosines(tensor(3 * y), tensor(x))
    assert np.allclose(cosines, [a @ b for a, b in zip(x, y, strict=True)])
    assert gap_pairs.displacement(tensor(y), tensor(x)) == pytest.approx(float(cosines.mean()))
    weights = np.random.default_rng(0).integers(0, 4, size=160)
    repeated = np.repeat(np.arange(160), weights)
    got = gap_pairs.weighted_correlation(tensor(x[:, 0]), tensor(x[:, 1]), tensor(weights))
    assert float(got) == pytest.approx(np.corrcoef(x[repeated, 0], x[repeated, 1])[0, 1])
    with pytest.raises(ValueError, match="belong together"):
        gap_pairs.row_cosines(tensor(y), tensor(x[:5]))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(2, 8), st.floats(0.0, 3.0))
def test_phi_never_passes_its_ceiling(seed, rows, dim, shift):
    rng = np.random.default_rng(seed)
    y, z = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, rows, dim)) + shift)
    z = np.where(rng.random((rows, 1)) < 0.5, y, z)  # rows that did not move push Phi up
    ceiling = gap_pairs.displacement_ceiling(tensor(y.mean(0)), tensor(z.mean(0)))
    assert gap_pairs.displacement(tensor(y), tensor(z)) <= ceiling + 1e-12


def test_phi_reaches_its_ceiling_when_all_rows_move_alike():
    y, z = np.tile([1.0, 0, 0], (4, 1)), np.tile([0.6, 0.8, 0], (4, 1))
    ceiling = gap_pairs.displacement_ceiling(tensor(y[0]), tensor(z[0]))
    assert gap_pairs.displacement(tensor(y), tensor(z)) == pytest.approx(ceiling)


def test_ranks_count_rows_that_are_at_least_as_near(sides):
    y, x = (side[:40].astype(np.float32).astype(np.float64) for side in sides)
    cross, mixed = [], []
    for i in range(40):
        own = y[i] @ x[i]
        nearer = sum(y[i] @ x[j] > own for j in range(40) if j != i)
        cross.append(nearer)
        mixed.append(nearer + sum(y[i] @ y[j] > own for j in range(40) if j != i))
    assert gap_pairs.retrieval_ranks(tensor(y), tensor(x), batch_size=7).tolist() == cross
    ranks = gap_pairs.retrieval_ranks(tensor(y), tensor(x), tensor(y), batch_size=7)
    assert ranks.tolist() == mixed and gap_pairs.recall(ranks, 5) == pytest.approx(np.mean(np.array(mixed) < 5))
    same = torch.ones(6, 3)
    assert gap_pairs.retrieval_ranks(same, same).tolist() == [5] * 6, "ties count against the query"
    with pytest.raises(ValueError, match="m >= n"):
        gap_pairs.retrieval_ranks(tensor(y), tensor(x[:5]))
    with pytest.raises(ValueError, match="distractors"):
        gap_pairs.retrieval_ranks(tensor(y), tensor(x), tensor(y[:3]))


def test_density_and_divergence_agree_with_scipy(sides):
    cosines = [(side[:80] * np.roll(side[:80], 1, 0)).sum(1) for side in sides]
    grid = (np.arange(512) + 0.5) / 256 - 1
    expected = []
    for c in cosines:
        density = stats.gaussian_kde(c, bw_method="scott")(grid)
        expected.append(density / density.sum())
        assert np.abs(gap_angles.cosine_density(tensor(c)).numpy() - expected[-1]).max() < 0.02 * expected[-1].max()
    divergence = float(gap_angles.jensen_shannon(tensor(expected[0]), tensor(expected[1])))
    assert divergence == pytest.approx(jensenshannon(*expected, base=2) ** 2)
    apart = torch.eye(2, dtype=torch.float64)
    assert float(gap_angles.jensen_shannon(apart[0], apart[1])) == pytest.approx(1)
    assert gap_angles.angular_divergence(tensor(sides[0]), tensor(sides[0])) == 0
    assert gap_angles.angular_divergence(tensor(sides[0]), tensor(sides[1])) > 0.01


def test_pairs_of_rows_are_of_different_rows():
    first, second = gap_angles.pair_positions(50, 1000, seed=3)
    assert len(first) == 1000 and not (first == second).any() and int(second.max()) < 50
    assert len(gap_angles.pair_positions(5, 1000)[0]) == 10
    with pytest.raises(ValueError, match="at least 2"):
        gap_angles.pair_positions(1, 5)


def test_uniformity_is_its_formula(sides):
    y, x = (side[:30] for side in sides)

    def kernel(a, b):
        return math.exp(-2 * np.sum((a - b) ** 2))

    off = [kernel(x[i], x[j]) for i in range(30) for j in range(30) if i != j]
    assert gap_angles.uniformity(tensor(x), batch_size=7) == pytest.approx(math.log(np.mean(off)))
    assert gap_angles.uniformity(tensor(x), per="row") == pytest.approx(math.log((sum(off) + 30) / 30))
    across = [kernel(x[i], y[j]) for i in range(30) for j in range(30) if i != j]
    got = gap_angles.cross_uniformity(tensor(x), tensor(y), per="row", batch_size=7)
    assert got == pytest.approx(math.log(sum(across) / 30))
    assert gap_angles.cross_uniformity(tensor(x), tensor(y)) == pytest.approx(math.log(np.mean(across)))
    with pytest.raises(ValueError, match="per="):
        gap_angles.uniformity(tensor(x), per="set")


def test_separability_is_a_held_out_ridge_classifier(sides):
    a, b = sides[0], sides[1][:90]
    got = gap_angles.linear_separability(tensor(a), tensor(b), folds=3, seed=4)
    generator = torch.Generator().manual_seed(4)
    folds = [torch.randperm(len(x), generator=generator).numpy() % 3 for x in (a, b)]
    right = [np.zeros(len(x)) for x in (a, b)]
    for fold in range(3):
        train = np.vstack([a[folds[0] != fold], b[folds[1] != fold]])
        counts = [int((f != fold).sum()) for f in folds]
        labels = np.repeat([0, 1], counts)
        spread = sum(covariance(x[f != fold]) for x, f in zip((a, b), folds, strict=True))
        # weights of a class sum to half the rows, so the penalty per unit of covariance is half the rows too
        model = RidgeClassifier(alpha=1e-3 * np.trace(spread) / 12 * len(train) / 2, class_weight="balanced")
        model.fit(train, labels)
        for label, (x, f) in enumerate(zip((a, b), folds, strict=True)):
            right[label][f == fold] = model.predict(x[f == fold]) == label
    assert float(got.mean()) == pytest.approx((right[0].mean() + right[1].mean()) / 2)


def test_limits_of_separability(sides):
    x = tensor(sides[0])
    assert float(gap_angles.linear_separability(x, x).mean()) == pytest.approx(0.5)
    assert float(gap_angles.linear_separability(x, -x.abs()).mean()) > 0.9
    drawn = [tensor(unit_rows(800, seed=5, shift=0))[i::2] for i in range(2)]
    assert float(gap_angles.linear_separability(*drawn).mean()) == pytest.approx(0.5, abs=0.06)
    with pytest.raises(ValueError, match="2 rows"):
        gap_angles.linear_separability(x[:1], x)


def test_neighbours_are_exact_in_any_blocks(sides):
    y, x = (tensor(side) for side in sides)
    for block in (7, 1000):
        cosines, positions = gap_neighbors.nearest_neighbors(y[:50], x.split(block), 6)
        expected = NearestNeighbors(n_neighbors=6).fit(x.numpy()).kneighbors(y[:50].numpy())[1]
        assert (positions.numpy() == expected).all()
        assert np.allclose(cosines, (y[:50] @ x.T).gather(1, positions), atol=1e-6)
    own = torch.arange(50)
    positions = gap_neighbors.nearest_neighbors(y[:50], y, 6, exclude=own, block=13)[1]
    expected = NearestNeighbors(n_neighbors=7).fit(y.numpy()).kneighbors(y[:50].numpy())[1][:, 1:]
    assert (positions.numpy() == expected).all()
    cosines, positions = gap_neighbors.nearest_neighbors(y[:2], x[:3], 5)
    assert (positions[:, 3:] == -1).all() and (cosines[:, 3:] == float("-inf")).all()


def mixing(z: torch.Tensor, x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    own = torch.arange(len(z)), torch.arange(len(x))
    near = gap_neighbors.nearest_neighbors
    return (
        gap_neighbors.mixing_shares(near(z, x, k)[0], near(z, z, k, own[0])[0]),
        gap_neighbors.mixing_shares(near(x, x, k, own[1])[0], near(x, z, k)[0]),
    )


def test_mixing_is_its_formula(sides):
    z, x = tensor(sides[0][:60]), tensor(unit_rows(80, seed=1)[20:])
    pool, k = np.vstack([x, z]), 8
    labels = np.repeat([1.0, 0.0], [len(x), len(z)])
    nearest = NearestNeighbors(n_neighbors=k + 1).fit(pool).kneighbors(pool)[1]
    near = np.array([[j for j in row if j != i][:k] for i, row in enumerate(nearest)])
    shares = labels[near].mean(1)
    got = mixing(z, x, k)
    assert np.allclose(got[1], shares[: len(x)]) and np.allclose(got[0], shares[len(x) :])
    entropy = np.array([stats.entropy([p, 1 - p], base=2) for p in shares])
    rng = np.random.default_rng(0)
    shuffled = [rng.permutation(labels)[near].mean(1) for _ in range(300)]
    expected = np.mean([[stats.entropy([p, 1 - p], base=2) for p in line] for line in shuffled])
    assert gap_neighbors.expected_mixing_entropy(len(x), len(z), k) == pytest.approx(expected, abs=2e-3)
    values = gap_neighbors.mixing_entropy(got[0], len(x), len(z), k)
    assert float(values.mean()) == pytest.approx(entropy[len(x) :].mean() / expected, rel=5e-3)
    other_side = [(labels[row] != label).mean() for row, label in zip(near, labels, strict=True)]
    assert np.allclose(gap_neighbors.mixing_rate(got[0], False), other_side[len(x) :])
    assert np.allclose(gap_neighbors.mixing_rate(got[1], True), other_side[: len(x)])
    with pytest.raises(ValueError, match="smaller k"):
        mixing(z[:3], x[:3], 7)


def test_limits_of_mixing():
    both = tensor(unit_rows(800, seed=3))
    x, others = both[:400], both[400:]
    for z, lowest, highest in ((x, 0.95, 1.1), (-x, 0.0, 0.01), (others, 0.9, 1.05)):
        for share in mixing(z, x, 20):
            assert lowest <= float(gap_neighbors.mixing_entropy(share, 400, 400, 20).mean()) <= highest


def test_a_permutation_keeps_the_distribution_and_no_neighbourhoods(sides):
    rows, k = 500, 20
    both = tensor(unit_rows(2 * rows, seed=6))
    y, x = both[:rows], both[rows:]
    z = x[torch.randperm(rows, generator=torch.Generator().manual_seed(0))]
    shares = mixing(z, x, k)
    for share in shares:
        assert float(gap_neighbors.mixing_entropy(share, rows, rows, k).mean()) == pytest.approx(1, abs=0.06)
    own = torch.arange(rows)
    before, after = (gap_neighbors.nearest_neighbors(side, side, k, own)[1] for side in (y, z))
    assert float(gap_neighbors.neighbor_overlap(before, after).mean()) == pytest.approx(k / rows, abs=0.01)
    assert float(gap_neighbors.neighbor_overlap(before, before).mean()) == 1


def test_grouped_moments_are_the_moments_and_their_resamples(sides):
    x = sides[0][:60]
    moments = GroupedMoments.of(tensor(x))
    mean, cov = moments.mean_and_covariance()
    assert np.allclose(mean, x.mean(0)) and np.allclose(cov, covariance(x)) and moments.count == 60
    assert moments.groups == 60, "few rows: each is a group, which is the bootstrap of rows"
    many = GroupedMoments.of(tensor(sides[0]))
    assert many.groups == 64 and many.count == 160
    assert np.allclose(many.mean_and_covariance()[1], covariance(sides[0]))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0)) % 60
    weights = resample_weights(60, 3, seed=5)
    for line, (mean, cov) in zip(weights, moments.resamples(weights), strict=True):
        drawn = np.repeat(x, line[order].int().numpy(), axis=0)
        assert np.allclose(mean, drawn.mean(0)) and np.allclose(cov, covariance(drawn))


def test_bootstrap_of_a_mean_covers_it():
    rng = np.random.default_rng(0)
    weights = resample_weights(80, 300, seed=1)
    assert (weights.sum(1) == 80).all() and torch.equal(weights, resample_weights(80, 300, seed=1))
    hits = 0
    for _ in range(300):
        low, high = interval(mean_replicates(tensor(rng.exponential(size=80)), weights))
        hits += low <= 1 <= high
    assert 0.90 <= hits / 300 <= 0.97


def test_bootstrap_of_a_distance_covers_it():
    """The gap of two samples whose true gap is known, with groups as they are resampled for stores."""
    rng = np.random.default_rng(0)
    true, dim = 0.5, 20
    hits = 0
    w = [resample_weights(64, 200, seed=seed) for seed in range(2)]
    for trial in range(200):
        a, b = rng.normal(size=(2, 400, dim)) / dim**0.5
        a[:, 0] += true
        sides = [GroupedMoments.of(tensor(x), trial) for x in (a, b)]
        means = [(v.double() @ s.sums) / (v.double() @ s.counts)[:, None] for v, s in zip(w, sides, strict=True)]
        drawn = (means[0] - means[1]).norm(dim=1)
        centre = float(np.linalg.norm(a.mean(0) - b.mean(0)))
        low, high = interval(drawn, centre=centre, factor=sides[0].factor)
        hits += low <= true <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_intervals():
    values = torch.linspace(0, 1, 101)
    assert interval(values) == pytest.approx((0.025, 0.975))
    assert interval(values, centre=5.0) == pytest.approx((4.525, 5.475))
    assert interval(values, factor=2.0) == pytest.approx((-0.45, 1.45))
    assert all(math.isnan(end) for end in interval([]))
    low, high = normal_interval(values, 0.0)
    assert high == pytest.approx(1.96 * float(values.double().std()), rel=1e-4) and low == -high
