"""The Space's parts without a server: what a session may touch, what is measured, what a page says."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

gradio = pytest.importorskip("gradio")
pytest.importorskip("plotly")

from hf_modalbridge import AutoCorrection  # noqa: E402
from hf_modalbridge.space import Refused, World  # noqa: E402
from hf_modalbridge.space.answers import stream_answer  # noqa: E402
from hf_modalbridge.space.gap import CORRECTIONS, correction_zip, explore  # noqa: E402
from hf_modalbridge.space.gap_figures import FIGURES, gap_figure, loss_figure  # noqa: E402
from hf_modalbridge.space.guard import Guard  # noqa: E402
from hf_modalbridge.space.imagine import Pool  # noqa: E402
from hf_modalbridge.space.lessons import borrow, held_out_losses, prepare_lesson, say, teach  # noqa: E402
from hf_modalbridge.space.tables import Table  # noqa: E402
from hf_modalbridge.space.words import note, worded  # noqa: E402
from hf_modalbridge.space.world import LoadedModel  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SPACE = ROOT / "spaces" / "modalbridge"


@pytest.fixture(scope="module")
def world(tiny_run: Path) -> World:
    return World([LoadedModel.load(tiny_run)])


@pytest.fixture
def table() -> Table:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 120)
    words = ["red chair", "green table", "blue boat", "black clock"]
    content = rng.normal(size=(4, 8))[labels] + 0.05 * rng.normal(size=(120, 8))
    rows, texts = (content + offset for offset in (1.0, -1.0))
    return Table(rows.astype(np.float32), [words[i] for i in labels], texts.astype(np.float32), "sensor")


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_nothing_of_gradio_is_loaded_before_the_space_starts():
    script = (
        "import sys, hf_modalbridge, hf_modalbridge.space, hf_modalbridge.cli; from hf_modalbridge.space import "
        "read_table, Limits; assert not {'gradio', 'plotly', 'fastapi', 'torch'} & set(sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_a_lesson_never_touches_the_shared_model(world: World, table: Table):
    shared = world.models[0]
    before, training = weights(shared.model), [p.requires_grad for p in shared.model.parameters()]
    attention = shared.model.language_model.config._attn_implementation
    lesson = prepare_lesson(table, shared.model, shared.processor, paired=True)
    own = lesson.model.language_model.get_input_embeddings().weight
    assert own.data_ptr() == shared.model.get_input_embeddings().weight.data_ptr(), "the weights are the same memory"
    steps = [len(progress.rows) for progress in teach(lesson, seconds=2, every=0.2)]
    assert steps[-1] == len(lesson.rows) >= 10 and steps == sorted(steps)
    mean = [float(np.mean([row["loss"] for row in part])) for part in (lesson.rows[:5], lesson.rows[-5:])]
    assert mean[1] < mean[0]
    own_loss, others = held_out_losses(lesson)
    assert own_loss < others - 0.1, "it reads the embedding"
    assert isinstance(say(lesson, 0), str)
    after = weights(shared.model)
    assert all(torch.equal(before[name], after[name]) for name in before) and before.keys() == after.keys()
    assert training == [p.requires_grad for p in shared.model.parameters()]
    assert attention == shared.model.language_model.config._attn_implementation
    assert list(shared.model.config.modalities) == ["image", "point", "touch"]
    assert "item" not in shared.processor.modalities


def test_a_lesson_from_text_alone_reads_the_embeddings_it_never_saw(world: World, table: Table):
    shared = world.models[0]
    lesson = prepare_lesson(table, shared.model, shared.processor, paired=False)
    list(teach(lesson, seconds=2, every=0.2))
    own, others = held_out_losses(lesson)
    assert own < others - 0.1
    table.text_embeddings = None
    with pytest.raises(Refused, match="text_embedding"):
        prepare_lesson(table, shared.model, shared.processor, paired=False)


def test_closing_a_lesson_stops_it(world: World, table: Table):
    shared = world.models[0]
    lesson = prepare_lesson(table, shared.model, shared.processor, paired=True)
    learning = teach(lesson, seconds=60, every=0.05)
    while not lesson.rows:
        next(learning)
    learning.close()
    done = len(lesson.rows)
    assert 0 < done < lesson.total
    with pytest.raises(StopIteration):
        next(learning)
    assert len(lesson.rows) == done


def test_a_caption_with_a_placeholder_is_refused(world: World, table: Table):
    shared = world.models[0]
    table.captions = [*table.captions[:-1], "a <|image|> inside"]
    with pytest.raises(Refused, match="stands for an item"):
        for seed in range(20):  # whichever rows are held back
            table.captions = np.random.default_rng(seed).permutation(table.captions).tolist()
            prepare_lesson(table, shared.model, shared.processor, paired=True)


def test_borrowed_weights_are_shared_and_what_is_done_to_the_copy_is_not():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    copy = borrow(model)
    assert copy[0].weight.data_ptr() == model[0].weight.data_ptr() and not copy[0].weight.requires_grad
    assert model[0].weight.requires_grad
    copy[0] = torch.nn.Linear(3, 5)
    copy.eval()
    assert model[0].out_features == 3 and model.training


def test_an_answer_that_nobody_waits_for_is_stopped(world: World):
    loaded = world.models[0]
    item = world.example(*world.examples[0])
    content = [{"type": item.modality, item.modality: item.value}, {"type": "text", "text": "what is this?"}]
    answer = stream_answer(loaded.model, loaded.processor, [{"role": "user", "content": content}], 120)
    next(answer)
    answer.close()  # joins the thread: it would take all 120 tokens otherwise
    with pytest.raises(Refused, match="placeholder"):
        bad = [{"role": "user", "content": "what is <|image|>?"}]
        list(stream_answer(loaded.model, loaded.processor, bad))


def test_examples_are_held_out_and_of_every_modality(world: World):
    assert {modality for modality, _ in world.examples} == {"image", "point", "touch"}
    for modality, name in (world.examples[0], world.examples[-1]):
        assert world.example(modality, name).modality == modality
        picture, caption = world.icon(modality, name)
        assert picture.width > 10 and caption


def test_imagine_counts_neighbours_as_a_plain_sort_does(world: World):
    pool = Pool(world)
    before, after = pool.place("red cat")
    query = world.embed_text("red cat").astype(np.float64)
    cosines = pool.images.astype(np.float64) @ query
    np.testing.assert_array_equal(before.pictures, np.argsort(-cosines)[:8])
    np.testing.assert_allclose(before.cosines, np.sort(cosines)[::-1][:8], atol=1e-5)
    both = np.concatenate([cosines, pool.captions.astype(np.float64) @ query])
    assert before.share == int((np.argsort(-both)[:20] < len(cosines)).sum())
    assert after.share > before.share, "the correction brings the text among the pictures"


def test_a_gap_is_closed_and_the_correction_can_be_taken_along(tmp_path: Path):
    rng = np.random.default_rng(0)
    common = rng.normal(size=(160, 8)) * np.linspace(0.3, 1, 8)
    source, target = (common + sign + 0.05 * rng.normal(size=common.shape) for sign in (1.0, -1.0))
    sides = source.astype(np.float32), target.astype(np.float32)
    report, fitted = explore(*sides, list(CORRECTIONS), paired=True)
    gaps = {name: found["gap"].value for name, found in report.sets.items()}
    assert gaps["ReAlign"] < 0.1 < gaps["source"] and set(fitted) == set(CORRECTIONS)
    assert report.settings["fitting_rows"] == [80, 80] and report.sides["source"].rows == 80
    assert not any("very rows" in text for text in report.warnings), "measured on rows that no fit has seen"
    for kind in FIGURES:
        assert len(gap_figure(report, kind).data) >= 2
    archive = zipfile.ZipFile(io.BytesIO(correction_zip(fitted["ReAlign"])))
    archive.extractall(tmp_path)
    again = AutoCorrection.from_pretrained(tmp_path / "correction")
    x = torch.from_numpy(sides[0][:5])
    torch.testing.assert_close(again(x), fitted["ReAlign"](x))
    unpaired, _ = explore(sides[0][:120], sides[1], ["ReAlign", "Procrustes (from pairs)"], paired=False)
    assert "Procrustes (from pairs)" not in unpaired.sets
    for bad, words in (((sides[0][:, :5], sides[1]), "width 5"), ((sides[0][:10], sides[1]), "10 rows")):
        with pytest.raises(Refused, match=words):
            explore(*bad, ["ReAlign"], paired=False)
    with pytest.raises(Refused, match="Untick"):
        explore(sides[0][:120], sides[1], [], paired=True)


def test_a_loss_curve_has_all_steps_and_room_for_the_rest():
    figure = loss_figure([{"step": i + 1, "loss": 3.0 - i} for i in range(3)], 40)
    assert list(figure.data[0].y) == [3.0, 2.0, 1.0] and tuple(figure.layout.xaxis.range) == (0, 40)


def test_errors_become_words_and_never_markup(caplog: pytest.LogCaptureFixture):
    def refuse() -> None:
        raise Refused("no <img src=x onerror=alert(1)> here")

    def fail() -> None:
        raise RuntimeError("/home/somebody/secret")

    def stream():
        yield 1
        raise Refused("later")

    with pytest.raises(gradio.Error) as error:
        worded(refuse)()
    assert "&lt;img" in error.value.message and "<img" not in error.value.message
    with pytest.raises(gradio.Error) as error:
        worded(fail)()
    assert "secret" not in error.value.message and "secret" in caplog.text
    handler = worded(stream)()
    assert next(handler) == 1
    with pytest.raises(gradio.Error, match="later"):
        next(handler)
    assert "<script>" not in note("<script>")


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        ("/gradio_api/file=https://example.org/x", True),
        ("/file=http%3A%2F%2F127.0.0.1/x", True),
        ("/gradio_api/file=https:/127.0.0.1", True),
        ("/gradio_api/proxy=https://example.org", True),
        ("/gradio_api/file=/tmp/x.png", False),
        ("/", False),
    ],
)
def test_the_guard_fetches_no_address_and_names_a_policy(path: str, refused: bool):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent: list[dict] = []

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(app, "default-src 'self'")({"type": "http", "path": path}, None, send))
    assert sent[0]["status"] == (403 if refused else 200)
    assert refused or (b"content-security-policy", b"default-src 'self'") in sent[0]["headers"]


def test_the_folder_is_laid_out_as_a_space():
    front = yaml.safe_load((SPACE / "README.md").read_text().split("---\n")[1])
    assert front["sdk"] == "gradio" and (SPACE / front["app_file"]).is_file() and front["license"] == "apache-2.0"
    pins = dict(line.split("==") for line in (SPACE / "requirements.txt").read_text().split())
    assert front["sdk_version"] == pins["gradio"] == gradio.__version__
    frozen = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for name, version in pins.items():
        assert name.startswith("hf-modalbridge") or frozen[name] == version, name


def test_without_a_model_the_command_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    from hf_modalbridge.cli import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["demo"])
    assert stop.value.code == 1 and "make demo" in capsys.readouterr().err
