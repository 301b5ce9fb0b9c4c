"""AnisoAlign: its formulas and identities, its bound, precision, files and models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from aniso_world import SMALL, make_adversarial
from correction_world import double, make_store, naive_realign, two_sides
from safetensors.torch import load_file
from torch import nn

from hf_modalbridge import AnisoAlign, AutoCorrection, ReAlign
from hf_modalbridge.corrections import ABLATIONS, AnisoConfig, apply_correction

STILL = {"a_theta": 0.0, "a_rho": 0.0, "v_bound": 0.0}
ALONE = ABLATIONS["initialisation"]


@pytest.fixture(scope="module")
def sides() -> tuple[np.ndarray, np.ndarray]:
    return two_sides()


@pytest.fixture(scope="module")
def fitted(sides) -> AnisoAlign:
    return AnisoAlign.fit(*sides, **SMALL)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def naive_quantile_start(y: np.ndarray, x: np.ndarray, rank: int, knots: int) -> np.ndarray:
    """The paper's initialisation (section 4.4) in float64, block by block, up to e' (not normalised)."""
    mu_y, mu_x = y.mean(0), x.mean(0)
    values, vectors = np.linalg.eigh(np.cov(y.T, bias=True) + np.cov(x.T, bias=True))
    q = vectors[:, np.argsort(-values)[:rank]]
    p_v = np.eye(len(mu_y)) - q @ q.T
    levels = np.linspace(0, 1, knots)
    ybar = y - mu_y + mu_x
    inside = np.zeros_like(y)
    for k in range(rank // 2):
        plane = q[:, 2 * k : 2 * k + 2]
        c, cx = ybar @ plane, x @ plane
        rho, rho_x = np.linalg.norm(c, axis=1), np.linalg.norm(cx, axis=1)
        rho0 = np.interp(rho, np.quantile(rho, levels), np.quantile(rho_x, levels))
        inside += (c / rho[:, None] * rho0[:, None]) @ plane.T
    y_v, x_v = y @ p_v, x @ p_v
    v0 = p_v @ mu_x + (x_v.std(0) / y_v.std(0)) * (y_v - p_v @ mu_y)
    return inside + v0


def test_the_initialisation_by_hand(sides):
    y, x = sides
    correction = AnisoAlign.fit(y, x, start="quantile", rank=8, quantile_knots=41, **ALONE)
    first = naive_quantile_start(y, x, 8, 41)
    # knots come from float32 rows
    assert np.abs(correction.initial(double(y)).numpy() - first).max() < 1e-6
    step = unit(first)
    assert np.abs(correction(double(y)).numpy() - unit(step - step.mean(0) + x.mean(0))).max() < 1e-6


@pytest.mark.parametrize("start", ["quantile", "realign"])
def test_without_room_to_move_the_result_is_the_initialisation(sides, start):
    y, x = sides
    alone = AnisoAlign.fit(y, x, **SMALL | {"start": start} | ALONE)
    moving = AnisoAlign.fit(y, x, **SMALL | {"start": start})
    assert (alone(double(y)) - moving(double(y))).abs().max() > 1e-4, "the refinement does something"
    still = AnisoAlign.from_config(moving.to_config() | STILL)
    still.load_state_dict(moving.state_dict())
    still.drift_mean.copy_(alone.drift_mean)
    make_adversarial(still, 10.0)
    assert (still(double(y)) - alone(double(y))).abs().max() < 1e-12
    refitted = AnisoAlign.fit(y, x, **SMALL | {"start": start} | STILL)
    assert torch.equal(refitted(double(y)), alone(double(y)))


@pytest.mark.parametrize(
    "hyper",
    [
        {"start": "quantile", "rank": 0, "v_scale": "scalar"},
        {"start": "realign", "rank": 0},
        {"start": "realign", "rank": 8},
        {"start": "realign", "rank": 24},
    ],
)
def test_realign_is_the_special_case(sides, hyper):
    y, x = sides
    correction = AnisoAlign.fit(y, x, **hyper, **ALONE)
    expected = naive_realign(y, x)["out"]
    assert np.abs(correction(double(y)).numpy() - expected).max() < 1e-10
    assert np.abs(correction(torch.from_numpy(y).float()).numpy() - expected).max() < 1e-6
    assert (ReAlign.fit(y, x)(double(y)) - correction(double(y))).abs().max() < 1e-10


def test_the_refined_state_by_hand(sides, fitted):
    """Section 4.4 from polar coordinates with arc tangents, for one row."""
    y = double(sides[0][:5])
    config, m = fitted.config, fitted.config.blocks
    q = fitted.frame
    e0 = fitted.target_mean + fitted.start_scale * (y - fitted.source_mean)
    c = e0 @ q
    rho0, theta0 = torch.hypot(c[:, :m], c[:, m:]), torch.atan2(c[:, m:], c[:, :m])
    v0 = e0 - c @ q.T
    net = fitted.refinement
    h = torch.cat(
        [theta0.sin(), theta0.cos(), (rho0.log() - fitted.log_rho_mean) / fitted.log_rho_std, v0 * 24**0.5], 1
    )
    for i in range(3):
        h = h @ getattr(net, f"weight_{i}").double().T + getattr(net, f"bias_{i}").double()
        h = nn.functional.silu(h) if i < 2 else h
    d_theta, d_rho, d_v = h[:, :m], h[:, m : 2 * m], h[:, 2 * m :]
    assert (d_v @ q).abs().max() < 1e-5 * d_v.abs().max(), "dv is in V: the last layer was projected"
    theta = theta0 + config.a_theta * d_theta.tanh()
    rho = rho0 * (config.a_rho * d_rho.tanh()).exp()
    v = v0 + config.v_bound / 24**0.5 * d_v.tanh()
    state = torch.cat([rho * theta.cos(), rho * theta.sin()], 1) @ q.T + v
    assert (fitted.refined(y) - state).abs().max() < 1e-10
    step = state / state.norm(dim=1, keepdim=True)
    out = step - fitted.drift_mean + fitted.target_mean
    assert (fitted(y) - out / out.norm(dim=1, keepdim=True)).abs().max() < 1e-10


def test_the_centroid_step_is_over_the_whole_corpus(sides):
    y, x = sides
    correction = AnisoAlign.fit(y, x, **SMALL | {"sample_rows": 100}, batch_size=64)
    first = correction.refined(double(y))
    assert (correction.drift_mean - (first / first.norm(dim=1, keepdim=True)).mean(0)).abs().max() < 1e-12
    gap = np.linalg.norm(correction(double(y)).mean(0).numpy() - x.mean(0))
    assert gap < 0.05 * np.linalg.norm(y.mean(0) - x.mean(0))


@pytest.mark.parametrize("start", ["quantile", "realign"])
@pytest.mark.parametrize("hyper", [{}, {"v_norm": "clip"}, {"reproject": True}])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_no_network_breaks_the_bound(sides, start, hyper, scale):
    y, x = sides
    correction = AnisoAlign.fit(y, x, **SMALL | {"start": start, "score_steps": 5, "refine_steps": 5} | hyper)
    rows = double(y)
    largest, parts = 0.0, []
    for seed in range(4):
        make_adversarial(correction, scale, seed)
        e0, e = correction.initial(rows), correction.refined(rows)
        bound = correction.bound(rows)
        moved = (e - e0).norm(dim=1) / e0.norm(dim=1)
        assert (moved <= bound["epsilon"] * (1 + 1e-9)).all()
        assert float(moved.max()) <= correction.bound()["epsilon"] * (1 + 1e-9)
        state = correction.initialise(rows)
        turn, rho, v = correction.refine(state)
        if scale == 1:  # louder networks make rounding errors large
            assert (correction.compose(state, turn, rho, v) - e).abs().max() < 1e-10
        assert (v - state.v).norm(dim=1).max() <= bound["beta_v"] * (1 + 1e-9)
        blocks = (rho * torch.exp(1j * turn) - state.rho).abs() / state.rho
        assert blocks.max() <= bound["kappa"] * (1 + 1e-9)
        parts.append((float((v - state.v).norm(dim=1).max()) / bound["beta_v"], float(blocks.max()) / bound["kappa"]))
        cosine = nn.functional.cosine_similarity
        change = (cosine(e[:-1], e[1:]) - cosine(e0[:-1], e0[1:])).abs()
        assert (change <= torch.maximum(bound["cosine_change"][:-1], bound["cosine_change"][1:])).all()
        assert (bound["cosine_change"] <= bound["paper_cosine_change"]).all()
        largest = max(largest, float((moved / bound["epsilon"]).max()))
        assert torch.isfinite(correction(rows)).all()
    if scale > 1:
        assert largest > 0.5
        assert min(np.max(parts, axis=0)) > 0.9, "the attack comes near the bounds, so the test could fail"


def test_the_bound_is_stated(fitted):
    bound = fitted.bound()
    assert bound["kappa"] == pytest.approx(
        (np.expm1(fitted.config.a_rho) ** 2 + 4 * np.exp(fitted.config.a_rho) * np.sin(fitted.config.a_theta / 2) ** 2)
        ** 0.5
    )
    assert bound["beta_v"] == fitted.config.v_bound and bound["cosine_change"] == pytest.approx(2 * bound["epsilon"])
    assert bound["epsilon"] >= bound["beta_v"]


class Holder(nn.Module):
    def __init__(self, correction):
        super().__init__()
        self.linear = nn.Linear(24, 24)
        self.correction = correction


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16, torch.float64])
def test_casts_of_the_model_around_it_change_nothing(sides, fitted, cast):
    rows = torch.from_numpy(sides[0]).float()
    before = fitted(rows)
    dtypes = {name: value.dtype for name, value in fitted.state_dict().items()}
    model = Holder(fitted).to(cast)
    assert model.linear.weight.dtype == cast
    assert {name: value.dtype for name, value in model.correction.state_dict().items()} == dtypes
    assert torch.equal(model.correction(rows), before)
    assert not list(fitted.parameters()) and not any(b.requires_grad for b in fitted.buffers())
    assert not before.requires_grad


@pytest.mark.parametrize("hyper", [{}, {"start": "quantile"}, {"mixing": "random"}, {"rank": 0}])
def test_saved_and_loaded_is_identical(sides, tmp_path, hyper):
    y, x = sides
    correction = AnisoAlign.fit(y, x, **SMALL | {"score_steps": 10, "refine_steps": 10} | hyper)
    correction.save_pretrained(tmp_path)
    loaded = AutoCorrection.from_pretrained(tmp_path)
    assert type(loaded) is AnisoAlign and loaded.to_config() == correction.to_config()
    assert torch.equal(loaded(double(y)), correction(double(y)))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rank"] == hyper.get("rank", 8) and set(AnisoConfig.names()) <= set(config)
    assert set(load_file(tmp_path / "correction.safetensors")) == set(correction.state_dict())
    assert loaded.bound() == correction.bound()


def test_all_kinds_of_input_give_the_same_fit(sides, tmp_path):
    y, x = sides
    expected = AnisoAlign.fit(y, x, **SMALL)
    store = make_store(tmp_path / "y", y), make_store(tmp_path / "x", x)
    for source, target in ((torch.from_numpy(y), [x[:200], double(x[200:])]), store):
        found = AnisoAlign.fit(source, target, **SMALL)
        assert (found(double(y)) - expected(double(y))).abs().max() < 1e-5
    assert torch.equal(AnisoAlign.fit(y, x, **SMALL)(double(y)), expected(double(y))), "one seed, one result"
    assert not torch.equal(AnisoAlign.fit(y, x, seed=1, **SMALL)(double(y)), expected(double(y)))
    out = apply_correction(expected, store[0], tmp_path / "out", batch_size=64)
    assert np.abs(out[:] - expected(double(y)).numpy()).max() < 1e-6


def test_batches_and_gradients(sides, fitted):
    rows = torch.from_numpy(sides[0]).float()
    whole = fitted(rows)
    assert (fitted(rows[:1]) - whole[:1]).abs().max() < 1e-6
    assert fitted(rows[:0]).shape == (0, 24)
    assert fitted(rows.bfloat16()).dtype == torch.bfloat16
    few = double(sides[0][:3]).clone().requires_grad_()
    assert torch.autograd.gradcheck(fitted, (few,))
    long = rows.repeat(5, 1)
    assert (fitted(long)[-700:] - whole).abs().max() < 1e-6
    copy = rows.clone()
    assert fitted.transform_(copy) is copy and torch.equal(copy, whole)


def test_mixing_and_frame(sides):
    y, x = sides
    for mixing in ("identity", "random", "learned"):
        correction = AnisoAlign.fit(y, x, rank=8, mixing=mixing, mixing_steps=60, **ALONE)
        q = correction.frame
        assert (q.T @ q - torch.eye(8)).abs().max() < 1e-6
        if mixing == "identity":
            plain = q @ q.T
        assert (q @ q.T - plain).abs().max() < 1e-6, "R turns the frame within its space"


def concentration(correction: AnisoAlign, rows: np.ndarray) -> float:
    c = rows @ correction.frame.numpy()
    u = np.exp(1j * np.arctan2(c[:, 4:], c[:, :4]))
    return float(np.abs(u.mean(0)).mean())


def test_learned_mixing_concentrates_phases(sides):
    y, x = sides
    kinds = {m: AnisoAlign.fit(y, x, rank=8, mixing=m, mixing_steps=150, **ALONE) for m in ("random", "learned")}
    assert concentration(kinds["learned"], x) > concentration(kinds["random"], x) + 0.05


def test_the_target_stays_as_it_is(sides, fitted):
    assert np.abs(fitted.transform_target(double(2 * sides[1])).numpy() - sides[1]).max() < 1e-12


def test_merging_is_refused_and_the_refit_named():
    with pytest.raises(TypeError, match="Fit it again over all parts"):
        AnisoAlign.from_moments(None, None)
    assert not AnisoAlign.merges and not AnisoAlign.paired


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        ({"rank": 5}, "even number within 0..24"),
        ({"rank": 26}, "even number within 0..24"),
        ({"start": "zero"}, "realign, quantile"),
        ({"a_theta": 4.0}, "at most pi"),
        ({"a_rho": -0.1}, "a_rho"),
        ({"v_bound": float("inf")}, "v_bound"),
        ({"sigma_min": 0.0}, "sigma_min"),
        ({"held_out": 1.0}, "held_out"),
        ({"eval_every": 0}, "eval_every"),
    ],
)
def test_bad_hyper_parameters_are_refused(sides, hyper, message):
    with pytest.raises(ValueError, match=message):
        AnisoAlign.fit(*sides, **hyper)
    with pytest.raises(TypeError, match="no hyper-parameter colour"):
        AnisoAlign.fit(*sides, colour=1)


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_narrow_embeddings(dim):
    rng = np.random.default_rng(0)
    y, x = rng.normal(size=(2, 40, dim)) + 1
    small = SMALL | {"rank": None, "score_steps": 3, "refine_steps": 3}
    out = AnisoAlign.fit(y, x, **small)(double(y))
    assert out.shape == (40, dim) and torch.isfinite(out).all()
