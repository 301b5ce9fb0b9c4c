"""The corrections of the family against their formulas, written naively in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from correction_world import double, make_store, two_sides

from hf_modalbridge import (
    C3,
    AutoCorrection,
    BlockCovariance,
    C3Shift,
    DiffusionLink,
    MeanShift,
    NoCorrection,
    Procrustes,
    RoleMeans,
    SubspaceCCA,
)
from hf_modalbridge.corrections import centred_moments, paired_covariance, unit_covariance, unit_moments
from hf_modalbridge.functional import CovarianceMoments, Moments, add_noise, reverse, symmetric_power, topology_loss


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def root(matrix: np.ndarray, power: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**power) @ vectors.T


def covariance(x: np.ndarray) -> np.ndarray:
    return np.cov(x.T, bias=True)


def pairs(count: int = 500, dim: int = 16, seed: int = 0, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Both sides see a common content: the source as it is, the target rotated, each about its own mean."""
    rng = np.random.default_rng(seed)
    content = rng.normal(size=(count, dim)) * np.arange(1, dim + 1) ** -0.5
    rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    means = rng.normal(size=(2, dim)) * 0.3
    y = content + noise * rng.normal(size=content.shape) + means[0]
    x = content @ rotation.T + noise * rng.normal(size=content.shape) + means[1]
    return unit(y), unit(x)


# ---- removing the mean of a role ------------------------------------------------------------------------


def test_role_means_is_the_papers_formula_and_c3_without_noise():
    y, x = two_sides()
    gr = RoleMeans.fit(y, x)
    assert np.abs(gr(double(3 * y)).numpy() - unit(y - y.mean(0))).max() < 1e-12
    assert np.abs(gr.transform_target(double(2 * x)).numpy() - unit(x - x.mean(0))).max() < 1e-12
    c3 = C3.fit(y, x)
    assert torch.equal(gr(double(y)), c3(double(y)))
    assert torch.equal(gr.transform_target(double(x)), c3.transform_target(double(x)))
    for weight in (0.5, 0.2):
        fused = gr.fuse(double(y[:50]), double(4 * x[:50]), weight).numpy()
        blend = weight * y[:50] + (1 - weight) * x[:50]
        assert np.abs(fused - unit(blend - weight * y.mean(0) - (1 - weight) * x.mean(0))).max() < 1e-12
    with pytest.raises(ValueError, match="50 and 49 rows"):
        gr.fuse(double(y[:50]), double(x[:49]))


# ---- block covariance -----------------------------------------------------------------------------------


def naive_blocks(y, x, rank, ridge):
    """T = U T_U U^T + V T_V V^T from the frame of both covariances."""
    sigma_y, sigma_x = covariance(y), covariance(x)
    values, vectors = np.linalg.eigh(sigma_x + sigma_y)
    vectors = vectors[:, ::-1]
    transport = 0
    for block in (vectors[:, :rank], vectors[:, rank:]):
        eye = np.eye(block.shape[1])
        s_x = block.T @ sigma_x @ block + ridge * np.trace(sigma_x) / len(sigma_x) * eye
        s_y = block.T @ sigma_y @ block + ridge * np.trace(sigma_y) / len(sigma_y) * eye
        transport = transport + block @ root(s_x, 0.5) @ root(s_y, -0.5) @ block.T
    return transport, vectors, values[::-1]


@pytest.mark.parametrize("ridge", [1e-6, 0.05])
def test_block_covariance_as_printed(ridge):
    y, x = two_sides(700, 500, 10)
    transport, _, _ = naive_blocks(y, x, 4, ridge)
    e1 = unit(y - y.mean(0) + x.mean(0))
    e2 = unit(e1 @ transport.T)
    expected = unit(e2 - e2.mean(0) + x.mean(0))
    fitted = BlockCovariance.fit(y, x, variant="published", rank=4, ridge=ridge)
    assert np.abs(fitted(double(y)).numpy() - expected).max() < 1e-7
    if ridge == 1e-6:
        default = BlockCovariance.fit(y, x, variant="published", rank=4)
        assert torch.equal(default.transport, fitted.transport)


def test_centered_block_covariance_and_what_it_matches():
    y, x = two_sides(700, 500, 10)
    fitted = BlockCovariance.fit(y, x, rank=4, ridge=0.0)
    transport, vectors, _ = naive_blocks(y, x, 4, 0.0)
    e2 = unit(x.mean(0) + (y - y.mean(0)) @ transport.T)
    assert np.abs(fitted(double(y)).numpy() - unit(e2 - e2.mean(0) + x.mean(0))).max() < 1e-9
    moved = covariance((y - y.mean(0)) @ fitted.transport.numpy().T)
    for block in (vectors[:, :4], vectors[:, 4:]):
        assert np.abs(block.T @ (moved - covariance(x)) @ block).max() < 1e-12, "the target's covariance in a block"
    assert np.abs(vectors[:, :4].T @ (moved - covariance(x)) @ vectors[:, 4:]).max() > 1e-4, "and not across blocks"


def test_the_frame_holds_the_energy_asked_for_and_the_ridge_follows_the_rows():
    y, x = two_sides(700, 500, 10)
    _, _, values = naive_blocks(y, x, 4, 0.0)
    share = np.cumsum(values) / values.sum()
    for energy in (0.3, 0.9, 1.0):
        rank = min(10, int((share < energy).sum()) + 1)
        by_energy = BlockCovariance.fit(y, x, energy=energy)
        assert torch.equal(by_energy.transport, BlockCovariance.fit(y, x, rank=rank, ridge=10 / 500).transport), energy
    for wrong in ({"variant": "other"}, {"energy": 0}, {"rank": 11}, {"ridge": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            BlockCovariance.fit(y, x, **wrong)


def test_fewer_rows_than_dimensions_stay_finite():
    y, x = two_sides(15, 12, 24)
    for variant in ("centered", "published"):
        assert BlockCovariance.fit(y, x, variant=variant)(double(y)).isfinite().all()


# ---- Procrustes -----------------------------------------------------------------------------------------


def test_procrustes_recovers_a_planted_rotation():
    y, _ = two_sides(300, 10, 24)
    rng = np.random.default_rng(3)
    rotation = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    fitted = Procrustes.fit(y, y @ rotation.T, prior_pairs=0)
    assert np.abs(fitted.rotation.numpy() - rotation).max() < 1e-6
    assert np.abs(fitted(double(y)).numpy() - y @ rotation.T).max() < 1e-6


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("prior", [0, 40.0, None])
def test_procrustes_is_scipys(scale, prior):
    linalg = pytest.importorskip("scipy.linalg")
    y, x = pairs()
    yc, xc = y - y.mean(0), x - x.mean(0)
    t = np.sqrt(np.mean(np.sum(xc**2, 1)) * np.mean(np.sum(yc**2, 1)))
    k = 16 if prior is None else prior
    imagined = np.sqrt(k * t / 16) * np.eye(16)  # whose outer products are k t / dim I
    rotation, total = linalg.orthogonal_procrustes(np.vstack([yc, imagined]), np.vstack([xc, imagined]))
    s = total / (500 + k) / np.mean(np.sum(yc**2, 1)) if scale else 1
    fitted = Procrustes.fit(y, x, scale=scale, prior_pairs=prior)
    assert np.abs(fitted.rotation.numpy() - rotation.T).max() < 1e-9
    assert np.abs(fitted(double(2 * y)).numpy() - unit(x.mean(0) + s * yc @ rotation)).max() < 1e-9


def test_the_prior_keeps_procrustes_at_the_identity_where_pairs_are_few():
    y, x = pairs(5, 16)
    eye = torch.eye(16, dtype=torch.float64)
    distance = [(Procrustes.fit(y, x, prior_pairs=k).rotation - eye).norm() for k in (1e-3, 16, 1e6)]
    assert distance[0] > distance[1] > distance[2] and distance[2] < 1e-3


# ---- subspace CCA ---------------------------------------------------------------------------------------


def test_subspace_cca_against_a_naive_svd_and_least_squares():
    y, x = pairs()
    yc, xc = y - y.mean(0), x - x.mean(0)
    whiten = [root(covariance(side) + 0.1 * np.trace(covariance(side)) / 16 * np.eye(16), -0.5) for side in (y, x)]
    left, _, _ = np.linalg.svd(whiten[0] @ (yc.T @ xc / 500) @ whiten[1])
    reduced = yc @ whiten[0] @ left[:, :5]
    to_target = np.linalg.lstsq(reduced, xc, rcond=None)[0]
    to_source = np.linalg.lstsq(reduced, yc, rcond=None)[0]
    for residual, expected in (
        (False, x.mean(0) + reduced @ to_target),
        (True, x.mean(0) + reduced @ to_target + yc - reduced @ to_source),
    ):
        fitted = SubspaceCCA.fit(y, x, components=5, ridge=0.1, residual=residual)
        assert np.abs(fitted(double(y)).numpy() - unit(expected)).max() < 1e-9
    rank = torch.linalg.matrix_rank(SubspaceCCA.fit(y, x, components=5, residual=False).matrix, rtol=1e-9)
    assert rank == 5


def test_canonical_correlations_are_those_of_sklearn():
    cross_decomposition = pytest.importorskip("sklearn.cross_decomposition")
    from hf_modalbridge.corrections.subspace_cca import canonical_directions

    y, x = pairs()
    yc, xc = y - y.mean(0), x - x.mean(0)
    peer = cross_decomposition.CCA(4, scale=False, max_iter=5000, tol=1e-10).fit(yc, xc)
    scores = peer.transform(yc, xc)
    expected = [np.corrcoef(scores[0][:, i], scores[1][:, i])[0, 1] for i in range(4)]
    sides = [double(covariance(side)) for side in (y, x)]
    w_y, w_x, correlations = canonical_directions(*sides, double(yc.T @ xc / 500), 0.0, 4)
    assert np.abs(correlations.numpy() - expected).max() < 1e-4
    ours = [np.corrcoef(yc @ w_y[:, i].numpy(), xc @ w_x[:, i].numpy())[0, 1] for i in range(4)]
    assert np.abs(np.array(ours) - correlations.numpy()).max() < 1e-9


def test_the_default_number_of_components_follows_the_pairs():
    y, x = pairs(30, 16)
    small = SubspaceCCA.fit(y[:8], x[:8], residual=False)
    assert torch.linalg.matrix_rank(small.matrix, rtol=1e-9) == 6
    with pytest.raises(ValueError, match="at least 12 pairs, got 11"):
        SubspaceCCA.fit(y[:11], x[:11], components=10)
    for wrong in ({"components": 17}, {"ridge": -1}, {"residual": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SubspaceCCA.fit(y, x, **wrong)


# ---- Diffusion-Link -------------------------------------------------------------------------------------


def test_diffusion_parts_against_their_formulas():
    torch.manual_seed(0)
    z, noise, t = torch.randn(6, 5).double(), torch.randn(6, 5).double(), torch.rand(6, 1).double()
    expected = np.cos(np.pi / 2 * t.numpy()) * z.numpy() + np.sin(np.pi / 2 * t.numpy()) * noise.numpy()
    assert np.abs(add_noise(z, t, noise).numpy() - expected).max() < 1e-12
    # an oracle that knows the clean rows: the reverse process ends there from any start
    assert torch.equal(reverse(noise, 0.7, 4, lambda now, time: z), z)
    # a Gaussian of unit variance, whose best prediction is a_t z: one step of DDIM turns z by the step's angle
    times = []

    def linear(now, time):
        times.append(time)
        return np.cos(np.pi / 2 * time) * now

    one = reverse(z, 0.6, 3, linear)
    assert times == pytest.approx([0.6, 0.4, 0.2])
    angle = np.pi / 2 * 0.2  # for this Gaussian every step multiplies by its cosine
    assert np.abs(one.numpy() - z.numpy() * np.cos(angle) ** 3).max() < 1e-12
    p, x = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    cosines = [unit(side.numpy()) @ unit(side.numpy()).T for side in (p, x)]
    naive = np.mean([(cosines[0][i, j] - cosines[1][i, j]) ** 2 for i in range(4) for j in range(4) if i != j])
    assert float(topology_loss(p, x)) == pytest.approx(naive, rel=1e-9)


def test_diffusion_link_beats_the_identity_and_a_shift_on_pairs_held_out():
    y, x = pairs(900, 16, noise=0.1)
    fitted = DiffusionLink.fit(y[:700], x[:700], steps=250)
    held = double(y[700:])

    def cosine(z):
        return float((z * double(x[700:])).sum(1).mean())

    shifted = cosine(MeanShift.fit(y[:700], x[:700])(held))
    assert cosine(fitted(held)) > max(shifted, cosine(held)) + 0.05
    shuffled = DiffusionLink.fit(y[:700], np.roll(x[:700], 1, axis=0), steps=250)
    assert cosine(fitted(held)) > cosine(shuffled(held)) + 0.05, "it is the pairs that it learns from"


def test_diffusion_link_settings_are_checked():
    for wrong in ({"start": 1.0}, {"blocks": 0}, {"hidden": -2}, {"learning_rate": -1.0}, {"reverse_steps": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DiffusionLink(8, **wrong)


# ---- second moments, and what merges --------------------------------------------------------------------


def test_covariances_are_numpys_and_merge_exactly(tmp_path):
    y, _ = two_sides(500, 10, 12)
    whole = unit_covariance(y)
    assert np.abs(whole.covariance.numpy() - covariance(y)).max() < 1e-14
    assert np.abs(whole.mean.numpy() - y.mean(0)).max() < 1e-14
    assert whole.moments.trace == pytest.approx(np.trace(covariance(y)))
    total, streamed = CovarianceMoments.empty(12), CovarianceMoments.empty(12)
    for number, part in enumerate(np.split(y, [1, 3, 200, 350])):
        total = total.merge(unit_covariance(make_store(tmp_path / str(number), part)))
        streamed.update(double(part))
    for merged in (total, streamed, CovarianceMoments.of(double(y))):
        assert merged.count == 500 and (merged.covariance - whole.covariance).abs().max() < 1e-14
    side = whole.marginal(3, 7)
    assert np.abs(side.covariance.numpy() - covariance(y[:, 3:7])).max() < 1e-14 and side.dim == 4
    with pytest.raises(ValueError, match="12 and 4"):
        whole.merge(side)


def test_paired_covariance_joins_parts_of_different_borders():
    y, x = pairs(300, 8)
    naive = covariance(np.hstack([y, x]))
    straight = paired_covariance(y * 3, x)
    parts = paired_covariance([y[:7], y[7:200], y[200:]], [x[:100].astype(np.float64), x[100:]])
    for got in (straight, parts):
        assert np.abs(got.covariance.numpy() - naive).max() < 1e-14
    x = x.copy()
    x[77] = 0
    with pytest.raises(ValueError, match="rows of the target.*row 77"):
        paired_covariance([y[:70], y[70:]], x)


def test_symmetric_powers():
    y, _ = two_sides(500, 10, 6)
    sigma = double(covariance(y))
    half = symmetric_power(sigma, 0.5)
    assert (half @ half - sigma).abs().max() < 1e-14
    assert (symmetric_power(sigma, -0.5) @ half - torch.eye(6)).abs().max() < 1e-10
    flat = torch.diag(torch.tensor([4.0, 1.0, 0.0]).double())
    assert symmetric_power(flat, -0.5).diagonal().tolist() == [0.5, 1.0, 0.0], "a pseudo-inverse"


def merged(parts, gather, empty):
    total = empty
    for part in parts:
        total = total.merge(gather(part))
    return total


@pytest.mark.parametrize("name", [n for n, kind in AutoCorrection.types().items() if kind.merges])
def test_parts_merge_to_the_whole(name):
    kind = AutoCorrection.types()[name]
    y, x = pairs(400, 10)

    def split(data):
        return np.split(data, [1, 30, 250])

    def of(data, gather, empty):
        return merged(split(data), gather, empty)

    means = [of(side, unit_moments, Moments.empty(10)) for side in (y, x)]
    covariances = [of(side, unit_covariance, CovarianceMoments.empty(10)) for side in (y, x)]
    if kind in (NoCorrection, MeanShift, C3Shift):
        built = kind.from_moments(*means)
    elif kind in (C3, RoleMeans):
        centred = of(x, lambda part: centred_moments(part, means[1]), Moments.empty(10))
        built = kind.from_moments(*means, centred)
    elif kind is BlockCovariance:
        drift = of(y, kind.from_moments(*covariances).drift_moments, Moments.empty(10))
        built = kind.from_moments(*covariances, drift)
    elif kind in (Procrustes, SubspaceCCA):
        total = CovarianceMoments.empty(20)
        for left, right in zip(split(y), split(x), strict=True):
            total = total.merge(paired_covariance(left, right))
        built = kind.from_moments(total)
    else:
        pytest.skip("tested with its own fit")
    whole = kind.fit(y, x)
    assert (built.source_rows, built.target_rows) == (400, 400) and not built.training
    for key, value in built.state_dict().items():
        assert (value - whole.state_dict()[key]).abs().max() < 1e-9, key
    assert (built(double(y)) - whole(double(y))).abs().max() < 1e-9


@pytest.mark.parametrize("name", [n for n, kind in AutoCorrection.types().items() if not kind.merges])
def test_what_does_not_merge_says_so(name):
    kind = AutoCorrection.types()[name]
    words = " ".join(kind.__doc__.split())
    assert "merge" in words and "fit" in words
