"""The training of AnisoAlign: what stage I learns, early stopping, resume, kill and resume, memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from aniso_world import SMALL, tied_phases
from correction_world import clip_features, double, two_sides
from safetensors.torch import load_file

from hf_modalbridge import AnisoAlign
from hf_modalbridge.corrections.aniso_score import load_score, score_loss

LEARN = {"rank": 8, "score_width": 64, "score_steps": 600, "score_batch": 256, "score_lr": 5e-3, "refine_steps": 1}
LEARN |= {"sigma_min": 0.2, "sigma_max": 0.6}  # where the ties of 0.2 rad show


@pytest.fixture(scope="module")
def sides():
    return two_sides()


def test_stage_one_learns_what_phases_have_in_common(tmp_path):
    x, held = tied_phases(seed=0), torch.from_numpy(tied_phases(rows=1000, seed=1))
    correction = AnisoAlign.fit(x[:500], x, checkpoint_dir=tmp_path, **LEARN)
    net = load_score(correction, tmp_path)
    zero, found = score_loss(correction, None, held), score_loss(correction, net, held)
    shuffled = score_loss(correction, net, held, shuffle=True)
    assert found < zero - 0.1
    # each phase alone is uniform, so without the others' help any confident score is worse than none
    assert shuffled > zero + 0.05
    history = correction.history["score"]
    assert history[0]["held_out"] == pytest.approx(zero, abs=0.05), "the fit starts from a score of zero"
    assert min(h["held_out"] for h in history) < history[0]["held_out"] - 0.1


def test_stage_one_learns_nothing_from_phases_that_have_nothing_in_common(tmp_path):
    x = tied_phases(seed=0)
    rng = np.random.default_rng(2)
    for k in range(4):
        x[:, 2 * k : 2 * k + 2] = x[rng.permutation(len(x)), 2 * k : 2 * k + 2]
    correction = AnisoAlign.fit(x[:500], x, **LEARN | {"score_steps": 300})
    losses = [h["held_out"] for h in correction.history["score"]]
    assert min(losses) > losses[0] - 0.03


@pytest.mark.skipif(clip_features() is None, reason="needs real embeddings")
def test_stage_one_on_real_embeddings(tmp_path):
    images, captions = clip_features()
    hyper = {"rank": 32, "score_width": 64, "score_steps": 200, "score_batch": 128, "refine_steps": 1}
    correction = AnisoAlign.fit(captions[250:], images[:400], checkpoint_dir=tmp_path, **hyper)
    net, held = load_score(correction, tmp_path), torch.from_numpy(images[400:])
    zero, found = score_loss(correction, None, held), score_loss(correction, net, held)
    assert found < zero
    # phases of real embeddings are concentrated one by one too, so shuffling does not take away everything
    assert score_loss(correction, net, held, shuffle=True) > found


def test_early_stopping_keeps_the_best_weights(sides, tmp_path):
    hyper = SMALL | {"score_lr": 0.05, "score_steps": 400, "patience": 2, "ema": 0.0, "refine_steps": 1}
    correction = AnisoAlign.fit(*sides, checkpoint_dir=tmp_path, **hyper)
    losses = [h["held_out"] for h in correction.history["score"]]
    steps = [h["step"] for h in correction.history["score"]]
    best = int(np.argmin(losses))
    assert steps[-1] < 400 and best == len(losses) - 3, "two looks after the best"
    tensors = load_file(tmp_path / "score.safetensors")
    assert not torch.equal(tensors["best/weight_0"], tensors["weights/weight_0"])


def test_the_refinement_lowers_its_loss(sides):
    correction = AnisoAlign.fit(*sides, **SMALL | {"refine_steps": 100, "lambda_score": 0.0, "lambda_phi": 0.0})
    losses = [h["held_out"] for h in correction.history["refinement"]]
    assert min(losses) < losses[0] and "score" not in correction.history


def interrupted(monkeypatch, sides, folder, step: int, stage: str) -> None:
    """Fit until the given step of a stage, then fail as a kill would: without warning."""
    from hf_modalbridge.corrections import aniso_training

    original = aniso_training.step_generator

    def failing(seed, name, at):
        if (name, at) == (stage, step):
            raise KeyboardInterrupt
        return original(seed, name, at)

    monkeypatch.setattr(aniso_training, "step_generator", failing)
    with pytest.raises(KeyboardInterrupt):
        AnisoAlign.fit(*sides, checkpoint_dir=folder, **SMALL)
    monkeypatch.setattr(aniso_training, "step_generator", original)


@pytest.mark.parametrize(("stage", "step"), [("score", 5), ("score", 27), ("refinement", 15)])
def test_an_interrupted_fit_goes_on_exactly(sides, tmp_path, monkeypatch, stage, step):
    whole = AnisoAlign.fit(*sides, checkpoint_dir=tmp_path / "whole", **SMALL)
    interrupted(monkeypatch, sides, tmp_path / "part", step, stage)
    resumed = AnisoAlign.fit(*sides, checkpoint_dir=tmp_path / "part", **SMALL)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert resumed.history == whole.history
    for file in ("score.safetensors", "refinement.safetensors"):
        a, b = load_file(tmp_path / "whole" / file), load_file(tmp_path / "part" / file)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    again = AnisoAlign.fit(*sides, checkpoint_dir=tmp_path / "part", **SMALL)
    assert torch.equal(again(double(sides[0])), whole(double(sides[0])))


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from aniso_world import SMALL
from correction_world import double, two_sides
from hf_modalbridge import AnisoAlign
sides = two_sides()
hyper = SMALL | {"score_steps": int(sys.argv[3]), "patience": 10**6, "score_width": 128}
correction = AnisoAlign.fit(*sides, checkpoint_dir=sys.argv[1], **hyper)
correction.save_pretrained(sys.argv[1] + "/out")
"""


@pytest.mark.slow
def test_a_killed_fit_goes_on(tmp_path):
    here = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}

    def command(name: str) -> list[str]:
        return [sys.executable, "-c", KILLED, str(tmp_path / name), here, "300"]

    process = subprocess.Popen(command("killed"), env=environment)
    checkpoint = tmp_path / "killed" / "score.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists() and not (tmp_path / "killed" / "refinement.safetensors").exists()
    for name in ("killed", "whole"):
        subprocess.run(command(name), env=environment, check=True)
    a, b = (load_file(tmp_path / name / "out" / "correction.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(a[key], b[key]) for key in b)


def test_checkpoints_of_another_fit_are_refused(sides, tmp_path):
    y, x = sides
    AnisoAlign.fit(y, x, checkpoint_dir=tmp_path, **SMALL)
    with pytest.raises(ValueError, match="another fit: tau differ"):
        AnisoAlign.fit(y, x, checkpoint_dir=tmp_path, **SMALL | {"tau": 0.2})
    with pytest.raises(ValueError, match="source, source_rows differ"):
        AnisoAlign.fit(y[:600], x, checkpoint_dir=tmp_path, **SMALL)
    with pytest.raises(ValueError, match="seed differ"):
        AnisoAlign.fit(y, x, seed=3, checkpoint_dir=tmp_path, **SMALL)
    assert {p.suffix for p in tmp_path.iterdir()} == {".safetensors", ".json"}
    with pytest.raises(FileNotFoundError, match="lambda_score"):
        load_score(AnisoAlign(24, **SMALL), tmp_path / "none")


def test_few_rows_and_more_rows_than_the_sample():
    y, x = two_sides(64, 64, 16)
    small = SMALL | {"rank": 4}
    a, b = (AnisoAlign.fit(y, x, **small) for _ in range(2))
    assert torch.equal(a(double(y)), b(double(y)))
    sampled = AnisoAlign.fit(y, x, **small | {"sample_rows": 20})
    assert torch.equal(sampled.source_mean, a.source_mean) and torch.equal(sampled.edge_weight, a.edge_weight)
    one = AnisoAlign.fit(y[:1], x[:2], **small)(double(y))
    assert torch.isfinite(one).all()


def test_progress_bars(capsys):
    AnisoAlign.fit(*two_sides(64, 64, 16), progress=True, **SMALL | {"rank": 4})
    shown = capsys.readouterr().err
    assert "stage score" in shown and "stage refinement" in shown and "held_out=" in shown


@pytest.mark.gpu
def test_fit_on_a_gpu(sides):
    correction = AnisoAlign.fit(*sides, device="cuda", **SMALL)
    assert all(tensor.device.type == "cpu" for tensor in correction.buffers())
    assert (
        correction(double(sides[0])) - AnisoAlign.fit(*sides, device="cpu", **SMALL)(double(sides[0]))
    ).abs().max() < 0.02
