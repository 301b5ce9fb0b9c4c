"""The Space as a visitor's program meets it: honest use, hostile uploads, paths of the server, twenty at once."""

from __future__ import annotations

import statistics
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gradio_client")
import httpx  # noqa: E402
from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402
from hostile import hostile_files  # noqa: E402
from PIL import Image  # noqa: E402
from space_server import Server, say  # noqa: E402
from space_world import npy, npz  # noqa: E402

pytestmark = pytest.mark.slow
ENDPOINTS = {"look": "/look", "table": "/bring"}


def visitor(server: Server) -> Client:
    return Client(server.url, verbose=False, analytics_enabled=False)


def ask(client: Client, question: str = "what is this?", longest: int = 8) -> str:
    talk, *_ = client.predict(question, longest, 0, api_name="/ask")
    assert talk[-2]["role"] == "user" and talk[-1]["role"] == "assistant"
    return text(talk[-1])


def text(message: dict) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def refusal(client: Client, *arguments: object, api_name: str) -> str:
    with pytest.raises(AppError) as error:
        client.predict(*arguments, api_name=api_name)
    return str(error.value)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 32), (200, 30, 60)).save(tmp_path / "red.png")
    return tmp_path / "red.png"


def test_chat_about_each_modality(server: Server, picture: Path, tmp_path: Path):
    rng = np.random.default_rng(0)
    (tmp_path / "cloud.npy").write_bytes(npy(rng.normal(size=(80, 3))))
    (tmp_path / "touch.npy").write_bytes(npy(rng.normal(size=(60, 44))))
    client = visitor(server)
    assert "Choose something" in refusal(client, "what is this?", 8, 0, api_name="/ask")
    for path in (picture, tmp_path / "cloud.npy", tmp_path / "touch.npy"):
        _, shown, viewer, status, talk, *_ = client.predict(handle_file(path), api_name="/look")
        assert path.name in status and talk == []
        assert bool(viewer["value"]) == (path.stem == "cloud") and ("<img" in shown["value"]) == (path.stem != "cloud")
        first = ask(client)
        assert first == ask_again(server, path), "the same answer in another session"
        assert ask(client, "and now?") is not None
    assert "Write a question" in refusal(client, "   ", 8, 0, api_name="/ask")
    assert "placeholder" in refusal(client, "what is <|image|>?", 8, 0, api_name="/ask")
    assert "at most 500" in refusal(client, "a" * 501, 8, 0, api_name="/ask")


def ask_again(server: Server, path: Path) -> str:
    client = visitor(server)
    client.predict(handle_file(path), api_name="/look")
    return ask(client)


def test_an_answer_comes_word_by_word(server: Server, picture: Path):
    client = visitor(server)
    client.predict(handle_file(picture), api_name="/look")
    job = client.submit("what is this?", 24, 0, api_name="/ask")
    job.result(timeout=120)
    lengths = [len(text(output[0][-1])) for output in job.outputs()]
    assert len(set(lengths)) > 3, lengths


def test_imagine_says_what_the_text_lands_beside(server: Server):
    html = visitor(server).predict("a red <b>cat</b>", api_name="/imagine")
    assert html.count("<section>") == 2 and html.count("data:image/webp") >= 8
    assert "Among 64 pictures and 64 captions" in html and "<b>cat</b>" not in html


def test_the_gap_is_measured_and_the_correction_downloads(server: Server, tmp_path: Path):
    rng = np.random.default_rng(0)
    common = rng.normal(size=(120, 8))
    for name, offset in (("source", 1.0), ("target", -1.0)):
        (tmp_path / f"{name}.npy").write_bytes(npy((common + offset).astype(np.float32)))
    files = [handle_file(tmp_path / f"{name}.npy") for name in ("source", "target")]
    client = visitor(server)
    chosen = ["mean shift", "ReAlign", "Procrustes (from pairs)"]
    found = client.predict("My two files", *files, True, chosen, api_name="/measure")
    assert "is the best of" in found[0] or "cannot be told" in found[0]
    download = next(
        one["value"] for one in found if isinstance(one, dict) and str(one.get("value", "")).endswith(".zip")
    )
    with zipfile.ZipFile(download) as archive:
        archive.extractall(tmp_path / "out")
    from hf_modalbridge import AutoCorrection

    correction = AutoCorrection.from_pretrained(tmp_path / "out" / "correction")
    assert correction.dim == 8 and correction.source_rows == 120
    wide = tmp_path / "wide.npy"
    wide.write_bytes(npy(rng.normal(size=(120, 9))))
    arguments = ("My two files", files[0], handle_file(wide), False, chosen)
    assert "width 8" in refusal(client, *arguments, api_name="/measure")


def test_a_connector_learns_a_table(server: Server, tmp_path: Path):
    rng = np.random.default_rng(0)
    words = np.array(["red chair", "green table", "blue boat", "black clock"])
    labels = rng.integers(0, 4, 120)
    rows = (rng.normal(size=(4, 8))[labels] + 0.05 * rng.normal(size=(120, 8))).astype(np.float32)
    (tmp_path / "table.npz").write_bytes(npz(embeddings=rows, captions=words[labels]))
    client = visitor(server)
    assert "Bring a table" in refusal(client, "Pairs: each row's own embedding", 1, api_name="/train")
    _, status, how = client.predict([handle_file(tmp_path / "table.npz")], api_name="/bring")
    assert "120 rows of width 8, without" in status and len(how["choices"]) == 1
    job = client.submit("Pairs: each row's own embedding", 0.25, api_name="/train")
    said, *_, tried = job.result(timeout=300)
    assert len(job.outputs()) > 4, "the curve grows while it learns"
    assert "steps on 108 rows" in said and "The difference is what it reads" in said
    assert tried.count("<tr>") == 4
    assert "not in the list of choices" in refusal(
        client, "Text alone: embeddings of the captions, moved by ReAlign", 0.25, api_name="/train"
    )
    # the shared model answers as before
    Image.new("RGB", (40, 32), (200, 30, 60)).save(tmp_path / "red.png")
    assert ask_again(server, tmp_path / "red.png") == ask_again(server, tmp_path / "red.png")


def test_hostile_uploads_are_refused_and_the_server_lives(server: Server, picture: Path, tmp_path: Path):
    client = visitor(server)
    client.predict(handle_file(picture), api_name="/look")
    before, answer = server.files(), ask(client)
    honest = tmp_path / "honest.npy"
    honest.write_bytes(npy(np.random.default_rng(0).normal(size=(60, 8))))
    cases = hostile_files()
    for case in cases:
        sent = handle_file(case.write(tmp_path))
        if case.page == "embeddings":
            arguments = ("My two files", sent, handle_file(honest), False, ["mean shift"])
            message = refusal(client, *arguments, api_name="/measure")
        else:
            arguments = ([sent],) if case.page == "table" else (sent,)
            message = refusal(client, *arguments, api_name=ENDPOINTS[case.page])
        assert case.word in message, (case.name, message)
        assert str(server.temporary) not in message and "Traceback" not in message
    assert server.process.poll() is None
    assert server.files() == before, "nothing was left behind"
    assert not Path("/tmp/modalbridge-was-here").exists()
    assert ask(client) is not None and ask_again(server, picture) == answer
    say(hostile_uploads=len(cases), refused=len(cases), files_left=0)


def test_a_file_beyond_the_limit_is_refused_at_the_door(server: Server, tmp_path: Path):
    large = tmp_path / "large.npy"
    with large.open("wb") as file:
        file.truncate(41_000_000)
    before = server.files()
    with large.open("rb") as file:
        answer = httpx.post(f"{server.url}/gradio_api/upload", files={"files": file}, timeout=60)
    assert answer.status_code == 413 and server.files() == before


def test_no_path_of_the_server_is_readable(server: Server, tiny_run: Path):
    secret = server.temporary.parent / "secret.txt"
    secret.write_text("the contents of it")
    paths = [
        "/etc/passwd", "../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", str(secret), str(server.log),
        str(tiny_run / "config.json"), "hf_modalbridge/space/app.py", "app.py", "~/.bashrc", "C:\\windows\\win.ini",
        "file:///etc/passwd", "http://127.0.0.1:1/x", "https:/127.0.0.1:1/x", "http:%2f%2f127.0.0.1:1/x",
    ]  # fmt: skip
    for path in paths:
        for route in ("/file=", "/gradio_api/file=", "/gradio_api/file/", "/gradio_api/proxy="):
            answer = httpx.get(server.url + route + path, timeout=30)
            assert answer.status_code in (400, 403, 404, 405), (route, path, answer.status_code)
            assert "root:" not in answer.text and "the contents" not in answer.text
    client = visitor(server)
    for path in ("/etc/passwd", str(secret), "http://127.0.0.1:1/x.npy", server.url + "/config"):
        data = {"path": path, "meta": {"_type": "gradio.FileData"}}
        message = refusal(client, data, api_name="/look")
        assert "root:" not in message
    page = httpx.get(server.url, timeout=30)
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "fonts.googleapis" not in page.text


def test_twenty_visitors_at_once_each_get_their_own_answer(server: Server, tmp_path: Path):
    users, rng = 20, np.random.default_rng(0)
    files = []
    for user in range(users):
        path = tmp_path / f"visitor-{user}.png"
        Image.fromarray(rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(path)
        files.append(path)
    expected = [ask_again(server, path) for path in files]
    times, wrong, failures = [], [], []
    start = threading.Barrier(users)

    def visit(user: int) -> None:
        try:
            client = visitor(server)
            start.wait(120)
            began = time.perf_counter()
            status = client.predict(handle_file(files[user]), api_name="/look")[3]
            question = f"what is this, visitor {user}?"
            talk, *_ = client.predict("what is this?", 8, 0, api_name="/ask")
            second, *_ = client.predict(question, 8, 0, api_name="/ask")
            times.append(time.perf_counter() - began)
            asked = [text(message) for message in second if message["role"] == "user"]
            if f"visitor-{user}.png" not in status or text(talk[-1]) != expected[user]:
                wrong.append(user)
            if asked != ["what is this?", question]:
                wrong.append(user)
        except Exception as error:  # counted, and shown below
            failures.append((user, repr(error)))

    threads = [threading.Thread(target=visit, args=(user,)) for user in range(users)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    total = time.perf_counter() - began
    say(
        visitors=users, failures=len(failures), wrong_answers=len(wrong), different_answers=len(set(expected)),
        total_s=round(total, 1), median_s=round(statistics.median(times), 1), slowest_s=round(max(times), 1),
    )  # fmt: skip
    assert not failures and not wrong and len(times) == users
    assert len(set(expected)) > users // 2, "answers differ, so that a mix-up would show"
