"""The command line: the whole way from raw items to a report, the help, and what errors look like."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_encoders import make_dual_encoder
from tiny_world import build_language_model, build_tokenizer

from hf_modalbridge import EmbeddingStore, EmbeddingStoreWriter, ModalBridgeForConditionalGeneration, ReAlign
from hf_modalbridge.cli import app, main

TEXTS = ["cat", "a red bicycle beside the wall", "two of them", "dog on the mat", "the wall", "a cat on a red mat"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A dual encoder, tables of captions and pictures, and two stores of another encoder."""
    folder = tmp_path_factory.mktemp("cli")
    model, processor = make_dual_encoder()
    with torch.no_grad():  # standardise the random tower's features, or all pictures get the same embedding
        features = model.image_tower_features(torch.randn(8, 3, 32, 32))
        model.image_head.mean.copy_(features.mean(0))
        model.image_head.std.copy_(features.std(0) + 1e-9)
    for part in (model, processor):
        part.save_pretrained(folder / "encoder")
    (folder / "encoder" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    for i in range(6):
        Image.new("RGB", (40, 32), (40 * i, 255 - 30 * i, 90)).save(folder / f"{i}.png")
    (folder / "captions.jsonl").write_text(
        "".join(json.dumps({"id": f"n{i}", "text": text}) + "\n" for i, text in enumerate(TEXTS))
    )
    (folder / "pictures.csv").write_text("id,file\n" + "".join(f"n{i},{i}.png\n" for i in range(6)))
    rng = np.random.default_rng(0)
    common, offset = rng.normal(size=(50, 12)), rng.normal(size=12)
    for name, sign in (("text", 1), ("image", -1)):
        x = common + sign * offset + 0.1 * rng.normal(size=common.shape)
        with EmbeddingStoreWriter(folder / name, dim=12, encoder={"id": str(folder / "encoder"), "dim": 12}) as writer:
            writer.append([f"r{i}" for i in range(50)], x / np.linalg.norm(x, axis=1, keepdims=True))
    return folder


@pytest.fixture
def run(capsys, monkeypatch, work):
    """Run the command line in the working folder; give its exit code, output and errors."""
    monkeypatch.chdir(work)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def test_from_raw_items_to_a_corrected_store(run, work, tmp_path):
    for arguments in (
        [
            "embed",
            "encoder",
            "captions.jsonl",
            tmp_path / "t",
            "--modality",
            "text",
            "--batch-size",
            2,
            "--dtype",
            "float32",
        ],
        [
            "embed",
            "encoder",
            "pictures.csv",
            tmp_path / "i",
            "--modality",
            "image",
            "--column",
            "file",
            "--dtype",
            "float32",
        ],
    ):
        code, out, _ = run(*arguments)
        assert code == 0 and "6" in out
    text, image = EmbeddingStore.open(tmp_path / "t"), EmbeddingStore.open(tmp_path / "i")
    assert text.ids == image.ids == [f"n{i}" for i in range(6)] and text.column("text") == TEXTS
    code, out, err = run("fit", tmp_path / "t", tmp_path / "i", tmp_path / "c")
    assert code == 0, err
    assert "realign fitted on 6 source and 6 target rows" in out
    expected = ReAlign.fit(text, image)
    assert np.array_equal(ReAlign.from_pretrained(tmp_path / "c").drift_mean, expected.drift_mean)
    code, out, _ = run("apply", tmp_path / "c", tmp_path / "t", tmp_path / "moved")
    moved = EmbeddingStore.open(tmp_path / "moved")
    assert code == 0 and moved.column("text") == TEXTS and not np.array_equal(moved[:], text[:])
    code, out, _ = run("info", tmp_path / "c")
    assert code == 0 and "realign" in out and "licence of encoder" in out and "apache-2.0" in out


def test_report_measures_gap_and_retrieval(run, work, tmp_path):
    run("fit", "text", "image", tmp_path / "moved", "--type", "mean_shift")
    numbers, page, table = (tmp_path / f"report.{kind}" for kind in ("json", "html", "md"))
    files = ("--json", numbers, "--html", page, "--markdown", table, "--bootstrap", 20)
    code, out, err = run("report", "text", "image", "--corrected", tmp_path / "moved", "--pairs", *files)
    assert code == 0 and "gap G_mu" in out and "R@1" in out, err
    got = json.loads(numbers.read_text())
    text, image = (EmbeddingStore.open(work / name)[:].astype(np.float64) for name in ("text", "image"))
    text, image = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, image))
    moved = text - text.mean(0) + image.mean(0)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    for name, x in (("source", text), ("moved", moved)):
        assert got["sides"][name]["gap"] == pytest.approx(np.linalg.norm(x.mean(0) - image.mean(0)), abs=1e-6)
        assert got["sides"][name]["trace"] == pytest.approx(np.sum(np.var(x, axis=0)), abs=1e-6)
        nearest = (x @ image.T).argmax(1) == np.arange(50)
        assert got["retrieval"][name]["1"] == pytest.approx(nearest.mean())
        assert got["sets"][name]["gap"]["low"] <= got["sets"][name]["gap"]["value"] <= got["sets"][name]["gap"]["high"]
    assert got["pairs"] == 50 and got["sides"]["moved"]["gap"] < 0.2 * got["sides"]["source"]["gap"]
    assert any("very rows of the source and target" in warning for warning in got["warnings"])
    assert "| source | 50 |" in table.read_text() and "<svg" in page.read_text()
    code, out, _ = run("report", "text", "image", "--bootstrap", 0)
    assert code == 0 and "R@1" not in out


def test_report_fits_types_on_the_half_that_it_does_not_measure(run, work, tmp_path):
    numbers = tmp_path / "report.json"
    run("fit", "text", "image", tmp_path / "c")
    run("apply", tmp_path / "c", "text", tmp_path / "store")
    names = ("mean_shift", "procrustes", tmp_path / "store")
    code, _, err = run("report", "text", "image", "--corrected", *names, "--pairs", "--json", numbers, "--bootstrap", 0)
    got = json.loads(numbers.read_text())
    assert code == 0 and list(got["sets"]) == ["source", "mean_shift", "procrustes", "store"], err
    assert got["settings"]["fitted_here"] == ["mean_shift", "procrustes"]
    assert got["settings"]["fitting_rows"] == [25, 25]
    assert got["pairs"] == 25 and all(side["rows"] == 25 for side in got["sides"].values())
    assert not any("fitted on" in warning for warning in got["warnings"])
    code, _, err = run("report", "text", "image", "--corrected", "procrustes")
    assert code == 1 and "fitted on pairs" in err


def test_info_says_what_things_are(run, work, tmp_path):
    code, out, _ = run("info", "text", "--verify")
    assert code == 0 and "50" in out and "12-d float16, unit rows" in out and "apache-2.0" in out and "sha256" in out
    code, out, _ = run("info", "encoder")
    assert code == 0 and "modalbridge_dual_encoder" in out and "apache-2.0" in out
    tokenizer = build_tokenizer()
    correction = ReAlign.fit(EmbeddingStore.open(work / "text"), EmbeddingStore.open(work / "image"))
    model, _ = ModalBridgeForConditionalGeneration.from_components(
        language_model=build_language_model(len(tokenizer)),
        tokenizer=tokenizer,
        modalities={"image": {"correction": correction, "placeholder_token": "<image>", "num_tokens": 3}},
    )
    model.save_pretrained(tmp_path / "bridge")
    code, out, _ = run("info", tmp_path / "bridge")
    assert code == 0
    for expected in ("language model's licence", "modality image", "3 at <image>", "realign", "takes ready embeddings"):
        assert expected in out, expected


def test_every_command_has_help_with_an_example(run):
    code, out, _ = run("--help")
    commands = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert code == 0 and {"embed", "fit", "apply", "report", "info"} <= set(commands)
    for command in commands:
        code, text, _ = run(command, "--help")
        assert command in out and code == 0
        assert "Example" in text and re.search(rf"^ +modalbridge {command} \S+", text, re.M), command


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["info", "nowhere"], "no directory 'nowhere' here"),
        (["fit", "nowhere", "image", "new"], "nowhere is no embedding store"),
        (["fit", "text", "image", "text"], "text exists and is not empty"),
        (["fit", "text", "image", "new", "--noise-norm", "1"], "no hyper-parameter noise_norm"),
        (["apply", "encoder", "text", "new"], "no correction"),
        (["report", "text", "image", "--pair-column", "label"], "no column 'label'"),
        (["report", "text", "image", "--corrected", "nowhere"], "no type of correction"),
        (["report", "text", "image", "more"], "more than two stores"),
        (["embed", "encoder", "nowhere.csv", "new", "--modality", "text"], "nowhere.csv"),
        (["embed", "encoder", "captions.jsonl", "text", "--modality", "text"], "text"),
    ],
)
def test_errors_are_one_paragraph_and_leave_things_alone(run, work, arguments, expected):
    before = sorted(str(p) for p in work.rglob("*"))
    code, _, err = run(*arguments)
    message = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert code == 1 and len(message) == 1 and expected in message[0] and "Traceback" not in err
    assert sorted(str(p) for p in work.rglob("*")) == before


def test_a_wrong_command_line_exits_with_2(run):
    for arguments in (["fit"], ["fit", "a", "b", "c", "--type", "magic"], ["nonsense"]):
        code, _, err = run(*arguments)
        assert code == 2 and "Usage" in err


def test_the_module_runs_as_a_program(work):
    done = subprocess.run(
        [sys.executable, "-m", "hf_modalbridge.cli", "info", str(work / "nowhere")], capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.startswith("Error: ") and "Traceback" not in done.stderr
