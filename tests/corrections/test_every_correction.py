"""The same checks for every registered correction: files, precision, batches, errors, gradients, tracing."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from correction_world import double, fingerprint, make_store, two_sides
from safetensors.torch import load_file
from tiny_bridges import make_bridge, make_lm, make_tokenizer

from hf_modalbridge import AutoCorrection, EmbeddingStore, ModalBridgeForConditionalGeneration
from hf_modalbridge.cli import CorrectionType, main
from hf_modalbridge.corrections import apply_correction

TYPES = AutoCorrection.types()
PAIRED = [name for name, kind in TYPES.items() if kind.paired]
UNPAIRED = [name for name in TYPES if name not in PAIRED]
# small settings where the defaults are made for real data
SMALL = {
    "diffusion_link": {"steps": 50},
    "aniso_align": {
        **{"score_steps": 20, "refine_steps": 20, "score_batch": 64, "refine_batch": 64, "eval_every": 10},
        **{"score_width": 16, "refine_width": 16, "projections": 8},
    },
}
DIM, ROWS = 12, 240
every = pytest.mark.parametrize("name", TYPES)

_fitted: dict[str, torch.nn.Module] = {}


def sides() -> tuple[np.ndarray, np.ndarray]:
    return two_sides(ROWS, ROWS, DIM)


def fit(name: str, source=None, target=None, **kwargs):
    y, x = sides()
    return TYPES[name].fit(
        y if source is None else source, x if target is None else target, **SMALL.get(name, {}) | kwargs
    )


def fitted(name: str):
    """One fit of each, for the tests that change nothing."""
    if name not in _fitted:
        encoders = {"source_encoder": fingerprint(dim=DIM), "target_encoder": fingerprint(modality="image", dim=DIM)}
        _fitted[name] = fit(name, **encoders)
    return _fitted[name]


def rows(dtype=torch.float64, count: int = 40) -> torch.Tensor:
    return double(sides()[0][:count]).to(dtype)


def same_state(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def test_the_command_line_offers_every_type():
    assert {member.value for member in CorrectionType} == set(TYPES)


@every
def test_output_is_unit_rows_with_statistics_that_standardise_the_target(name):
    c = fitted(name)
    y, x = sides()
    z, goal = c(double(y)), c.transform_target(double(x))
    assert z.shape == y.shape and not z.requires_grad
    for out in (z, goal):
        assert (out.norm(dim=1) - 1).abs().max() < 1e-9
    standard = c.standardize(goal)
    assert standard.mean(0).abs().max() < 1e-6 and standard.square().mean() == pytest.approx(1, abs=1e-6)
    assert not c.training and not [p for p in c.parameters() if p.requires_grad]


@every
def test_saved_and_loaded_is_identical_bit_by_bit(name, tmp_path):
    c = fitted(name)
    c.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"README.md", "config.json", "correction.safetensors"}
    assert load_file(tmp_path / "correction.safetensors").keys() == c.state_dict().keys()
    for loaded in (TYPES[name].from_pretrained(tmp_path), AutoCorrection.from_pretrained(tmp_path)):
        assert type(loaded) is TYPES[name] and not loaded.training and loaded.to_config() == c.to_config()
        assert same_state(loaded, c)
        assert not [p for p in loaded.parameters() if p.requires_grad]
        for call in ("forward", "transform_target", "standardize"):
            assert torch.equal(getattr(loaded, call)(rows()), getattr(c, call)(rows()))
    card = (tmp_path / "README.md").read_text()
    assert name in card and (name == "none" or "none; embeddings pass through" not in card), "the card names the method"


@every
def test_a_bf16_model_keeps_it_bit_by_bit_and_gives_it_back(name, tmp_path):
    c = fitted(name)
    modalities = {"image": {"correction": fit(name), "num_tokens": 1}}
    model, _ = make_bridge(modalities=modalities)
    model.to(torch.bfloat16)
    inside = model.model.corrections["image"]
    assert same_state(inside, c)
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(inside(rows(dtype)), c(rows(dtype)))
    model.save_pretrained(tmp_path)
    assert same_state(AutoCorrection.from_pretrained(tmp_path, modality="image"), c)
    loaded = ModalBridgeForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    again = loaded.model.corrections["image"]
    assert same_state(again, c) and torch.equal(again(rows(torch.float32)), c(rows(torch.float32)))
    assert loaded.model.language_model.dtype == torch.bfloat16
    trainable = [key for key, p in loaded.named_parameters() if p.requires_grad and "corrections" in key]
    assert not trainable


@every
def test_a_bridge_without_its_base_model_keeps_it_too(name, tmp_path):
    lm = make_lm()
    lm.save_pretrained(tmp_path / "lm")
    base = type(lm).from_pretrained(tmp_path / "lm")
    model, _ = ModalBridgeForConditionalGeneration.from_components(
        language_model=base,
        tokenizer=make_tokenizer(),
        modalities={"image": {"correction": fit(name), "num_tokens": 1}},
        language_model_source={"id": str(tmp_path / "lm"), "revision": None},
    )
    model.save_pretrained(tmp_path / "bridge", bridge_only=True)
    loaded = ModalBridgeForConditionalGeneration.from_pretrained(tmp_path / "bridge", dtype=torch.bfloat16)
    assert same_state(loaded.model.corrections["image"], fitted(name))


@every
def test_push_to_hub_sends_these_files(name, tmp_path, monkeypatch):
    import huggingface_hub

    sent: dict = {}

    class Api:
        def __init__(self, token=None):
            sent["token"] = token

        def create_repo(self, repo_id, repo_type="model", private=None, exist_ok=False):
            sent["repo"] = (repo_id, private, exist_ok)
            return type("RepoUrl", (), {"repo_id": repo_id})()

        def create_branch(self, repo_id, branch, repo_type="model", exist_ok=False):
            sent["branch"] = (repo_id, branch, exist_ok)

        def upload_folder(self, repo_id, folder_path, commit_message, revision, **others):
            from pathlib import Path

            sent["files"] = {
                p.relative_to(folder_path).as_posix(): p.read_bytes() for p in Path(folder_path).rglob("*")
            }
            sent["commit"] = (repo_id, commit_message, revision)
            return type("Commit", (), {"commit_url": "https://hub/commit/1"})()

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    c = fitted(name)
    assert c.push_to_hub("org/fix", private=True, token="t", revision="next") == "https://hub/commit/1"
    assert sent["token"] == "t" and sent["repo"] == ("org/fix", True, True)
    assert sent["commit"] == ("org/fix", f"Upload {type(c).__name__} correction", "next")
    assert {"README.md", "config.json", "correction.safetensors"} <= sent["files"].keys()
    for file, content in sent["files"].items():
        (tmp_path / file).write_bytes(content)
    assert same_state(AutoCorrection.from_pretrained(tmp_path), c), "what was sent is the whole correction"
    assert sent["files"]["README.md"].decode().startswith("---\nlibrary_name: hf_modalbridge\n")


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_in_is_dtype_out(name, dtype):
    c, y = fitted(name), rows(dtype)
    before = y.clone()
    exact = c(y.double())
    eps = {torch.float16: 2**-10, torch.bfloat16: 2**-7, torch.float32: 1e-5, torch.float64: 0}[dtype]
    for call in (c, c.transform_target, c.standardize):
        assert call(y).dtype == dtype
    assert (c(y).double() - exact).abs().max() <= eps
    assert torch.equal(y, before), "the rows that came in are as they were"


@every
def test_autocast_changes_nothing(name):
    c, y = fitted(name), rows(torch.float32)
    alone = c(y), c.transform_target(y)
    with torch.autocast("cpu", torch.bfloat16):
        under = c(y), c.transform_target(y)
    assert all(map(torch.equal, under, alone))


@every
def test_a_batch_of_one_and_any_order_give_the_same_rows(name):
    c = fitted(name)
    for y, tolerance in ((rows(), 1e-12), (rows(torch.float32), 2e-6)):
        whole = c(y)
        single = torch.cat([c(row[None]) for row in y])
        assert (whole - single).abs().max() < tolerance
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
        assert (c(y[order]) - whole[order]).abs().max() < tolerance
        assert torch.equal(c(y), c(y)), "the same output each time"
    assert c(rows()[:0]).shape == (0, DIM)


@every
def test_bad_rows_are_refused(name):
    c, y = fitted(name), rows()
    broken = y.clone()
    broken[3, 2] = float("nan")
    zero = y.clone()
    zero[5] = 0
    for call in (c, c.transform_target):
        for bad, message in (
            (y[:, :-1], rf"\(n, {DIM}\), got \(40, {DIM - 1}\)"),
            (y[0], rf"\(n, {DIM}\)"),
            (broken, "non-finite.*row 3"),
            (zero, "only zeros: row 5"),
            (y.long(), "int64"),
        ):
            with pytest.raises(ValueError, match=message):
                call(bad)


@every
def test_bad_fits_are_refused(name):
    y, x = sides()
    kind = TYPES[name]
    for bad in (np.nan, np.inf, 0.0):
        for side in ("source", "target"):
            data = {"source": y.copy(), "target": x.copy()}
            data[side][7] = bad
            with pytest.raises(ValueError, match=f"1 of .* rows of the {side}.*row 7"):
                kind.fit(**data, **SMALL.get(name, {}))
    for source, target, error, message in (
        (y[:0], x[:0], ValueError, "empty"),
        (y, x[:, :-1], ValueError, f"differ in width: {DIM} and {DIM - 1}"),
        (y.astype(np.int64), x, ValueError, "int64"),
        ("path", x, TypeError, "source is a str"),
    ):
        with pytest.raises(error, match=message):
            kind.fit(source, target)
    with pytest.raises(TypeError, match=f"{kind.__name__} has no hyper-parameter colour"):
        kind.fit(y, x, colour=1)
    with pytest.raises(ValueError, match="no statistics"):
        kind(DIM).save_pretrained("nowhere")


@every
def test_another_encoder_is_refused(name, tmp_path):
    c = fitted(name)
    other = fingerprint("siglip", dim=DIM, first=-0.4)
    for side in ("source", "target"):
        with pytest.raises(ValueError, match="clip@main.*siglip@main"):
            c.check_encoder(other, side)
        with pytest.raises(ValueError, match="siglip"):
            apply_correction(c, make_store(tmp_path / side, sides()[0], other), tmp_path / "out", side=side)


@every
def test_gradients_reach_the_input(name):
    y = rows(count=3).requires_grad_()
    c = fitted(name)
    for call in (c, c.transform_target):
        call(y).square().mul(torch.arange(DIM)).sum().backward()
        assert y.grad.isfinite().all() and (y.grad.norm(dim=1) > 1e-6).all()
        y.grad = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.autograd.gradcheck(c, (rows(count=2).requires_grad_(),), atol=1e-4)


@every
def test_one_seed_gives_one_fit(name):
    encoders = {"source_encoder": fingerprint(dim=DIM), "target_encoder": fingerprint(modality="image", dim=DIM)}
    state = torch.random.get_rng_state()
    assert same_state(fit(name, **encoders), fitted(name))
    assert torch.equal(torch.random.get_rng_state(), state), "a fit leaves the global random numbers alone"


@pytest.mark.parametrize("name", UNPAIRED)
def test_unpaired_fits_take_any_order_and_any_number_of_rows(name):
    y, x = sides()
    order = np.random.default_rng(1).permutation(ROWS)
    a, b = fit(name, y, x), fit(name, y[order], x)
    for key in (f"{side}_{what}" for side in ("source", "target", "output") for what in ("mean", "trace")):
        assert (a.state_dict()[key] - b.state_dict()[key]).abs().max() < 1e-12, key
    c = fit(name, y, x[:150])
    assert (c.source_rows, c.target_rows) == (ROWS, 150)
    with pytest.raises(ValueError, match="no use for pairs"):
        fit(name, pairs="id")


@pytest.mark.parametrize("name", PAIRED)
def test_paired_fits_need_rows_that_correspond(name, tmp_path):
    y, x = sides()
    with pytest.raises(ValueError, match=f"source has {ROWS} rows and the target 150"):
        fit(name, y, x[:150])
    order = np.random.default_rng(1).permutation(ROWS)
    straight = fit(name)(rows())
    assert (fit(name, y[order], x)(rows()) - straight).abs().max() > 1e-3, "which row belongs to which matters"
    with pytest.raises(ValueError, match="two stores"):
        fit(name, pairs="id")
    source = make_store(tmp_path / "y", y, fingerprint(dim=DIM))
    shuffled = make_shuffled(tmp_path / "x", x, order[:200])
    joined = fit(name, source, shuffled)
    kept = np.sort(order[:200])
    assert joined.source_rows == joined.target_rows == 200 and joined.source_encoder == fingerprint(dim=DIM)
    assert (joined(rows()) - fit(name, y[kept], x[kept])(rows())).abs().max() < 1e-5
    with pytest.raises(ValueError, match="no value of the column 'id' occurs in both"):
        fit(name, source, make_shuffled(tmp_path / "z", x, order, prefix="other"))
    with pytest.raises(KeyError, match="no column 'pair'"):
        fit(name, source, shuffled, pairs="pair")


@pytest.mark.parametrize("name", PAIRED)
def test_too_few_pairs_are_refused_with_the_reason(name):
    y, x = sides()
    least = TYPES[name](DIM)._least_pairs()
    with pytest.raises(
        ValueError, match=rf"{TYPES[name].__name__} needs at least {least} pairs, got {least - 1}: .*ReAlign"
    ):
        fit(name, y[: least - 1], x[: least - 1])
    assert fit(name, y[:least], x[:least]).is_fitted


def make_shuffled(path, x: np.ndarray, order: np.ndarray, prefix: str = "") -> EmbeddingStore:
    from hf_modalbridge import EmbeddingStoreWriter

    with EmbeddingStoreWriter(path, dim=x.shape[1], dtype="float64") as writer:
        writer.append([f"{prefix}{i}" for i in order], x[order])
    return EmbeddingStore.open(path)


@every
def test_torch_export_traces_it(name):
    c, y = fitted(name), rows(torch.float32)
    free = name != "aniso_align"  # which works in blocks of rows, and is traced for one number of them
    shapes = ({0: torch.export.Dim("n", min=2, max=4096)},) if free else None
    program = torch.export.export(c, (y,), dynamic_shapes=shapes)
    other = rows(torch.float32, 7) if free else y + 0.01
    assert (program.module()(other) - c(other)).abs().max() < 1e-6


@every
def test_it_is_built_on_meta(name):
    with torch.device("meta"):
        empty = AutoCorrection.from_config(fitted(name).to_config())
    state = fitted(name).state_dict()
    assert {k: (v.shape, v.dtype) for k, v in empty.state_dict().items()} == {
        k: (v.shape, v.dtype) for k, v in state.items()
    }
    assert all(v.is_meta for v in empty.state_dict().values())


@every
def test_from_the_command_line(name, tmp_path, capsys):
    y, x = sides()
    make_store(tmp_path / "y", y, fingerprint(dim=DIM))
    make_store(tmp_path / "x", x, fingerprint(modality="image", dim=DIM))

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        assert stop.value.code == 0, captured.err
        return captured.out

    hyper = [f for k, v in SMALL.get(name, {}).items() for f in ("--hyper", f"{k}={v}")]
    pairs = ["--pairs", "text"] if name in PAIRED else []
    out = run("fit", tmp_path / "y", tmp_path / "x", tmp_path / "c", "--method", name, *pairs, *hyper)
    assert f"{name} fitted on {ROWS} source and {ROWS} target rows" in out
    c = AutoCorrection.from_pretrained(tmp_path / "c")
    assert same_state(c, fitted(name))
    assert "applied" not in run("apply", tmp_path / "c", tmp_path / "y", tmp_path / "z")
    written = EmbeddingStore.open(tmp_path / "z")
    assert np.abs(written[:] - c(double(y)).numpy()).max() < 1e-12 and written.ids == [str(i) for i in range(ROWS)]
    info = run("info", tmp_path / "c")
    assert name in info and ("pairs" in info) == (name in PAIRED)
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert all(config[k] == v for k, v in SMALL.get(name, {}).items())
